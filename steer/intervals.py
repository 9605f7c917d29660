"""How sure a mean is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2_000


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def ratio(numerators: Sequence[float], denominators: Sequence[float], seed: int = 0) -> Interval:
    """Sum of numerators over sum of denominators, both given per item, which are resampled.

    Percentile bootstrap (Efron 1979). With denominators of 1 it is the mean. NaN where all
    denominators are 0.
    """
    top, bottom = np.asarray(numerators, float), np.asarray(denominators, float)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(top), (RESAMPLES, len(top)))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = top[drawn].sum(1) / bottom[drawn].sum(1)
        value = float(top.sum() / bottom.sum())
    low, high = np.nanpercentile(ratios, [2.5, 97.5]) if np.isfinite(value) else (value, value)
    return Interval(value, float(low), float(high))
