"""How sure a mean is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    denominators are 0.
    """
    top, bottom = np.asarray(numerators, float), np.asarray(denominators, float)
    drawn = _drawn(len(top), seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _interval(top.sum() / bottom.sum(), top[drawn].sum(1) / bottom[drawn].sum(1))


def mean(values: Numbers) -> Interval:
    """Mean of one number an item."""
    return ratio(values, np.ones(len(values)))


def difference(
    first: tuple[Numbers, Numbers], second: tuple[Numbers, Numbers], seed: int = 0
) -> Interval:
    """`ratio(*first) - ratio(*second)` over the same items, which are resampled together."""
    parts = [np.asarray(part, float) for part in (*first, *second)]
    drawn = _drawn(len(parts[0]), seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b, c, d = (part.sum() for part in parts)
        tops_a, bottoms_a, tops_b, bottoms_b = (part[drawn].sum(1) for part in parts)
        return _interval(a / b - c / d, tops_a / bottoms_a - tops_b / bottoms_b)


def _drawn(n: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))


def _interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    if not np.isfinite(value):
        return Interval(float(value), float(value), float(value))
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))
