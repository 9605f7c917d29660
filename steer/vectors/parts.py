"""Parts of an activation: the heads of an attention, and the experts of a router.

The activation of a site such as `heads` is the concatenation of equally wide parts. A part is
written LAYER.NUMBER, such as 12.3: head 3 of layer 12, both counted from 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from steer.base.errors import UsageError
from steer.vectors.record import Record

_MOST_DIGITS = 5


class Parts(Record, frozen=True):
    """How an activation is divided: `n` parts of `width` numbers each."""

    n: int
    width: int

    def __post_init__(self) -> None:
        if self.n < 1 or self.width < 1:
            raise ValueError("an activation has at least one part, of at least one number")

    @property
    def total(self) -> int:
        """The width of the whole activation."""
        return self.n * self.width


class Part(NamedTuple):
    """One part of the activation of a layer."""

    layer: int
    number: int

    def __str__(self) -> str:
        return f"{self.layer}.{self.number}"


def parse_parts(text: str) -> int | tuple[Part, ...]:
    """A number of parts, such as `48`, or a list of them, such as `12.3,14.0`.

    Raises:
        UsageError: the text is neither.
    """
    if text.strip().isdecimal() and len(text.strip()) <= _MOST_DIGITS and int(text):
        return int(text)
    parts = []
    for item in text.split(","):
        layer, dot, number = item.strip().partition(".")
        digits = layer.isdecimal() and number.isdecimal()
        if not dot or not digits or max(len(layer), len(number)) > _MOST_DIGITS:
            raise UsageError(
                f"{text!r} names no heads or experts",
                hint="write how many to keep, such as 16, or which: 12.3,14.0 (LAYER.NUMBER)",
            )
        parts.append(Part(int(layer), int(number)))
    return tuple(sorted(set(parts)))


def format_parts(parts: Iterable[Part], most: int = 12) -> str:
    """`12.3, 14.0`; of many, the first and how many more."""
    shown = [str(part) for part in sorted(parts)]
    rest = len(shown) - most
    return ", ".join(shown[:most]) + (f" and {rest} more" if rest > 0 else "")
