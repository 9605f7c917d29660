"""Parse untrusted JSON: within limits, without repeated keys and without NaN."""

from __future__ import annotations

import json
import re
from typing import Any

from steer.base.errors import VectorError

#: Limits, since a number takes some 32 bytes of memory, an empty list 64 and a text at least 50,
#: however short they are in a file. Vectors of the widest models have two million numbers.
_MOST = {"commas": (",", 3_000_000), "brackets": ("[{", 200_000), "quotes": ('"', 1_000_000)}
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


def load_strict_json(text: str, subject: str) -> Any:
    """JSON without repeated keys and without NaN.

    Raises:
        VectorError: naming `subject` and what is wrong.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        unique: dict[str, Any] = {}
        for key, value in pairs:
            if key in unique:
                raise VectorError(f"{subject}: the key {key[:40]!r} occurs twice in its JSON")
            unique[key] = value
        return unique

    def no_constant(constant: str) -> float:
        raise VectorError(f"{subject}: its JSON has the number {constant}")

    for kind, (marks, most) in _MOST.items():
        n = sum(map(text.count, marks))
        if n > most:
            raise VectorError(f"{subject}: its JSON has {n:,} {kind}, more than {most:,}")
    try:
        raw = json.loads(text, object_pairs_hook=once, parse_constant=no_constant)
    except (RecursionError, ValueError) as error:
        raise VectorError(f"{subject} is not JSON: {error}") from None
    if "\\u" in text and _has_half_character(raw):
        raise VectorError(f"{subject} is not JSON: a text has half a character")
    return raw


def _has_half_character(raw: Any) -> bool:
    """Whether a text has half of a surrogate pair, which cannot be encoded."""
    todo = [raw]
    while todo:
        value = todo.pop()
        if isinstance(value, str) and _HALF_CHARACTER.search(value):
            return True
        if isinstance(value, dict):
            todo += [*value, *value.values()]
        elif isinstance(value, list):
            todo += value
    return False
