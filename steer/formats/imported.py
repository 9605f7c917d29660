"""The contents of another tool's file, before they become a steering vector.

Formats number layers by different conventions. Here a direction belongs to the site where it was
measured: the output of a block, counted from 0 (`resid_post`). If its own tool adds it elsewhere,
`convention` says so, and an offset moves it there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from steer.base.errors import VectorError
from steer.vectors.sites import SiteName
from steer.vectors.vector import Directions

#: Several times the size of the vectors of the largest models.
MAX_BYTES = 100_000_000
#: Text takes more memory when parsed than on disk.
MAX_TEXT_BYTES = 64_000_000
MAX_LAYERS = 10_000
MAX_WIDTH = 1_000_000
#: The largest coefficient that is accepted; it destroys any activation.
MAX_COEFFICIENT = 1e30
#: How much the length of a unit vector may differ from 1, through rounding in float32.
UNIT_TOLERANCE = 1e-4

#: down [k, d_model] and up [d_model, k] of a low-rank edit, float32.
Factors = tuple[Directions, Directions]


@dataclass(frozen=True, slots=True)
class ImportedVector:
    """The directions in a file, by its own layer numbers, and how its tool uses them.

    directions: float32 [d_model] each. shift: our layer number minus the file's, by the format's
        convention. convention: the same in words, for the user.
    op, coefficient: what the file's tool does with the directions, in the grammar of `-v`.
    factors: of a low-rank edit, with the same rank k at each layer.
    recommended: the layers that the file recommends; empty for all.
    model: the file's description of its model. notes: more lines for the user.
    sides: by layer, where projections on the unit vector are 0 and 1 in the file's own units, if
        known; they become the means of the negative and of the positive side.
    """

    directions: Mapping[int, Directions]
    convention: str
    shift: int = 0
    site: SiteName = "resid_post"
    op: str = "add"
    coefficient: float = 1.0
    factors: Mapping[int, Factors] = field(default_factory=dict)
    recommended: tuple[int, ...] = ()
    model: str = ""
    notes: tuple[str, ...] = ()
    sides: Mapping[int, tuple[float, float]] = field(default_factory=dict)


def checked_directions(rows: Iterable[tuple[int, object]], subject: str) -> dict[int, Directions]:
    """Directions as float32, sorted by layer number.

    Raises:
        VectorError: there are none, a layer number is repeated or out of range, or a direction is
            not one row of finite numbers of the same length as the others.
    """
    directions: dict[int, Directions] = {}
    width = None
    for number, values in rows:
        if number in directions:
            raise VectorError(f"{subject} has layer {number} twice")
        if not 0 <= number < MAX_LAYERS:
            raise VectorError(f"{subject} has a layer {shortened(number)}")
        directions[number] = row = checked_row(values, f"{subject}, layer {number}")
        width = width or len(row)
        if len(row) != width:
            raise VectorError(f"{subject} has vectors of {width} and of {len(row)} numbers")
    if not directions:
        raise VectorError(f"{subject} has no vectors")
    return dict(sorted(directions.items()))


def checked_row(values: object, subject: str) -> Directions:
    """One row of finite numbers, float32 [d_model].

    Raises:
        VectorError: anything else.
    """
    if isinstance(values, list) and not all(type(value) in (int, float) for value in values):
        raise VectorError(f"{subject}: not a list of numbers")
    if isinstance(values, np.ndarray) and values.dtype.kind not in "fiu":
        raise VectorError(f"{subject}: not numbers")
    try:
        with np.errstate(over="ignore"):  # overflow is reported below
            row = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        raise VectorError(f"{subject}: not a list of numbers") from None
    if row.ndim != 1 or not 1 <= len(row) <= MAX_WIDTH:
        raise VectorError(f"{subject}: shape {list(row.shape)} is not one row of numbers")
    if not np.isfinite(row).all():
        raise VectorError(f"{subject}: some numbers are not finite in float32")
    return row


def norm(row: Directions) -> float:
    """The length of a direction, computed in float64, since float32 squares can overflow."""
    return float(np.linalg.norm(row.astype(np.float64)))


def unit(row: Directions, subject: str) -> Directions:
    """A direction scaled to length 1; unchanged bit for bit if it has length 1 already.

    Raises:
        VectorError: the direction is zero.
    """
    length = norm(row)
    if not length:
        raise VectorError(f"{subject} is zero: it has no direction")
    if abs(length - 1) <= 1e-6:
        return row
    return np.asarray(row.astype(np.float64) / length, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Projection:
    """Directions that are projected out of activations: h - coefficient * sum strength (h . d) d.

    The fields are those of `ImportedVector`. One direction per layer with equal strengths is an
    ablation. A subspace, or different strengths, is a low-rank edit: `down` holds the directions,
    and `up` is minus strength times the directions.
    """

    directions: dict[int, Directions]
    factors: dict[int, Factors]
    op: str
    coefficient: float


def projection(
    bases: Mapping[int, NDArray[np.float32]],
    strengths: Mapping[int, Iterable[float]],
    coefficient: float,
) -> Projection:
    """Bases float32 [k, d_model] of orthonormal rows by layer, and k strengths each.

    Raises:
        VectorError: a strength overflows float32.
    """
    weights = {number: np.asarray(list(each), np.float64) for number, each in strengths.items()}
    distinct = {float(value) for each in weights.values() for value in each}
    if len(distinct) == 1 and all(len(basis) == 1 for basis in bases.values()):
        directions = {number: np.asarray(basis[0]) for number, basis in bases.items()}
        return Projection(directions, {}, "ablate", coefficient * distinct.pop())
    directions = {number: np.zeros(basis.shape[1], np.float32) for number, basis in bases.items()}
    factors = {}
    for number, basis in bases.items():
        with np.errstate(over="ignore"):
            up = np.asarray(-(basis.astype(np.float64).T * weights[number]), np.float32)
        if not np.isfinite(up).all():
            raise VectorError(f"layer {number} is projected with a strength beyond float32")
        factors[number] = (np.asarray(basis), up)
    return Projection(directions, factors, "add", coefficient)


def layer_number(text: str, subject: str) -> int:
    """A layer as files write it: digits, without a sign or leading zeros.

    Raises:
        VectorError: anything else.
    """
    if not (text.isascii() and text.isdecimal()) or len(text) > 5 or str(int(text)) != text:
        raise VectorError(f"{subject}: {shortened(text)!r} is not a layer")
    return int(text)


def coefficient_of(value: object, subject: str, name: str) -> float:
    """A coefficient that a file states.

    Raises:
        VectorError: it is not a number, or larger than `MAX_COEFFICIENT`.
    """
    if type(value) not in (int, float) or not abs(value) <= MAX_COEFFICIENT:  # type: ignore[arg-type]
        raise VectorError(f"{subject}: its {name} {shortened(value)!r} is not a coefficient")
    return float(value)  # type: ignore[arg-type]


def rounded_coefficient(value: float) -> float:
    """A float32 as the shortest decimal with the same float32: 1.1, not 1.10000002."""
    return float(str(np.float32(value))) if math.isfinite(value) else value


def shortened(value: object) -> str:
    """A value from an untrusted file as at most 60 characters of text."""
    try:
        text = str(value)
    except ValueError:  # an integer of thousands of digits
        return "number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."
