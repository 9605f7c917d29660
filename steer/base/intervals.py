"""How sure a mean is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2_000

Numbers = Sequence[float] | NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def plain(interval: Interval | None) -> dict[str, float] | None:
    """An interval as plain JSON; None where there is no number."""
    if interval is None or not np.isfinite(interval.value):
        return None
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def ratio(numerators: Numbers, denominators: Numbers, seed: int = 0) -> Interval:
    """Sum of numerators over sum of denominators, both given per item, which are resampled.

    Percentile bootstrap (Efron 1979). With denominators of 1 it is the mean. NaN where all
    denominators are 0. Given as [row, item], what the rows are of (directions, drawn at random) is
    resampled too, and the interval is of all that could have been drawn.
    """
    (top, bottom), (tops, bottoms) = _resampled([numerators, denominators], seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _interval(top / bottom, tops / bottoms)


def mean(values: Numbers) -> Interval:
    """Mean of one number an item."""
    return ratio(values, np.ones(np.shape(values)))


def difference(
    first: tuple[Numbers, Numbers], second: tuple[Numbers, Numbers], seed: int = 0
) -> Interval:
    """`ratio(*first) - ratio(*second)` over the same items, which are resampled together."""
    (a, b, c, d), (tops_a, bottoms_a, tops_b, bottoms_b) = _resampled([*first, *second], seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _interval(a / b - c / d, tops_a / bottoms_a - tops_b / bottoms_b)


def _resampled(parts: Sequence[Numbers], seed: int) -> tuple[list[Any], list[Any]]:
    """Of each part its sum, and its sums [resample] over the same items and rows."""
    every = np.broadcast_arrays(*(np.atleast_2d(np.asarray(part, float)) for part in parts))
    n_rows, n = every[0].shape
    rng = np.random.default_rng(seed)
    items = rng.integers(0, n, (RESAMPLES, n))
    rows = rng.integers(0, n_rows, (_rows_of(n_rows), RESAMPLES))
    sums = [np.stack([row[items].sum(1) for row in part]) for part in every]
    return [part.sum() for part in every], [
        part[rows, np.arange(RESAMPLES)].sum(0) for part in sums
    ]


def _rows_of(n: int) -> int:
    """How many of n rows a resample draws.

    The mean of n that are drawn of n varies by (n - 1) / n of what the mean of n others would, and
    where few tell how much that is, Student's t is wider than a normal number. To draw fewer makes
    up for both, and stays between the least and the greatest: two of five.
    """
    if n == 1:
        return 1
    from scipy.special import stdtrit

    return max(1, round((n - 1) * (1.96 / float(stdtrit(n - 1, 0.975))) ** 2))


def _interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    if not np.isfinite(value):
        return Interval(float(value), float(value), float(value))
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))
