"""JSON as a stranger may have written it: without repeated keys and without NaN."""

from __future__ import annotations

import json
from typing import Any

from steer.errors import VectorError


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

    try:
        raw = json.loads(text, object_pairs_hook=once, parse_constant=no_constant)
        json.dumps(raw, ensure_ascii=False).encode()  # half a surrogate pair has no bytes
    except (RecursionError, ValueError) as error:
        raise VectorError(f"{subject} is not JSON: {error}") from None
    return raw
