"""What a file of another tool holds, before it is a steering vector.

Formats number layers by different conventions. Here a vector belongs where it was measured: the
output of a block, counted from 0 (`resid_post`). Where its own tool would add it somewhere else,
the convention says so, and an offset moves it there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from steer.base.errors import VectorError
from steer.vectors.sites import SiteName
from steer.vectors.vector import Directions

#: Several times the vectors of the largest models.
MAX_BYTES = 100_000_000
#: Text takes more memory when parsed than on disk.
MAX_TEXT_BYTES = 64_000_000
MAX_LAYERS = 10_000
MAX_WIDTH = 1_000_000


@dataclass(frozen=True, slots=True)
class Foreign:
    """Vectors by the layer number that their file gives them.

    rows: float32 [d_model] each. shift: the layer here, less the number there, by the format's
    convention, which `convention` says in words. model: what the file says of its model.
    coefficient: what the file recommends. notes: what else the user should know.
    """

    format: str
    rows: Mapping[int, Directions]
    shift: int
    convention: str
    site: SiteName = "resid_post"
    model: str = ""
    coefficient: float = 1.0
    notes: tuple[str, ...] = ()


def checked_rows(rows: Iterable[tuple[int, object]], subject: str) -> dict[int, Directions]:
    """Layer numbers with their vectors, as float32, by rising number.

    Raises:
        VectorError: none, a number twice or out of range, a vector that is not one row of finite
            numbers, or rows that differ in length.
    """
    made: dict[int, Directions] = {}
    width = None
    for number, values in rows:
        if number in made:
            raise VectorError(f"{subject} has layer {number} twice")
        if not 0 <= number < MAX_LAYERS:
            raise VectorError(f"{subject} has a layer {shortened(number)}")
        made[number] = row = _row(values, f"{subject}, layer {number}")
        width = width or len(row)
        if len(row) != width:
            raise VectorError(f"{subject} has vectors of {width} and of {len(row)} numbers")
    if not made:
        raise VectorError(f"{subject} has no vectors")
    return dict(sorted(made.items()))


def _row(values: object, subject: str) -> Directions:
    if isinstance(values, list) and not all(type(value) in (int, float) for value in values):
        raise VectorError(f"{subject}: not a list of numbers")
    try:
        with np.errstate(over="ignore"):  # what is too large for float32 is told below
            row = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        raise VectorError(f"{subject}: not a list of numbers") from None
    if row.ndim != 1 or not 1 <= len(row) <= MAX_WIDTH:
        raise VectorError(f"{subject}: shape {list(row.shape)} is not one row of numbers")
    if not np.isfinite(row).all():
        raise VectorError(f"{subject}: some numbers are not finite in float32")
    return row


def layer_number(text: str, subject: str) -> int:
    """A layer as files write it: digits, without a sign or leading zeros.

    Raises:
        VectorError: anything else.
    """
    if not (text.isascii() and text.isdecimal()) or len(text) > 5 or str(int(text)) != text:
        raise VectorError(f"{subject}: {shortened(text)!r} is not a layer")
    return int(text)


def shortened(value: object) -> str:
    """What a stranger's file says, no longer than a line."""
    try:
        text = str(value)
    except ValueError:  # an integer of thousands of digits
        return "number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."
