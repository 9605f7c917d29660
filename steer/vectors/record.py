"""What the typed records of a vector file have in common."""

from __future__ import annotations

import math

import msgspec


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Frozen, and unknown fields are refused: a misspelt one would be lost in silence."""


def finite(*values: float) -> None:
    """Refuse what is no number.

    Raises:
        ValueError: one of the values is infinite or NaN.
    """
    if not all(math.isfinite(value) for value in values):
        raise ValueError("a number is not finite")
