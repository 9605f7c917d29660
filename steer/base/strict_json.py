"""JSON as a stranger may have written it: bounded, without repeated keys and without NaN."""

from __future__ import annotations

import json
import re
from typing import Any

from steer.base.errors import VectorError

#: A number takes some 32 bytes of memory, an empty list 64, a text 50 and more, however short they
#: are in a file. The numbers of the widest models' vectors are two million.
_MOST = {"commas": (",", 3_000_000), "brackets": ("[{", 200_000), "quotes": ('"', 1_000_000)}
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


def load_strict_json(text: str, subject: str) -> Any:
    """JSON without repeated keys and without NaN.

    Raises:
        VectorError: naming `subject` and what is wrong.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, value in pairs:
            if key in made:
                raise VectorError(f"{subject}: the key {key[:40]!r} stands twice in its JSON")
            made[key] = value
        return made

    def no_constant(constant: str) -> float:
        raise VectorError(f"{subject}: its JSON has the number {constant}")

    for what, (marks, most) in _MOST.items():
        found = sum(map(text.count, marks))
        if found > most:
            raise VectorError(f"{subject}: its JSON has {found:,} {what}, more than {most:,}")
    try:
        raw = json.loads(text, object_pairs_hook=once, parse_constant=no_constant)
    except (RecursionError, ValueError) as error:
        raise VectorError(f"{subject} is not JSON: {error}") from None
    if "\\u" in text and _has_half_character(raw):
        raise VectorError(f"{subject} is not JSON: a text has half a character")
    return raw


def _has_half_character(raw: Any) -> bool:
    """Whether a text has half of a surrogate pair, which has no bytes."""
    todo = [raw]
    while todo:
        one = todo.pop()
        if isinstance(one, str) and _HALF_CHARACTER.search(one):
            return True
        if isinstance(one, dict):
            todo += [*one, *one.values()]
        elif isinstance(one, list):
            todo += one
    return False
