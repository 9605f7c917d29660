"""The base class of the typed records in a vector file."""

from __future__ import annotations

import math

import msgspec


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Frozen. Unknown fields are refused, since a misspelt one would be lost silently."""


def finite(*values: float) -> None:
    """Refuse numbers that are not finite.

    Raises:
        ValueError: one of the values is infinite or NaN.
    """
    if not all(math.isfinite(value) for value in values):
        raise ValueError("a number is not finite")
