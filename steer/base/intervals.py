"""95 % intervals of estimates, with correct coverage also for few items.

At each end, the wider of two bootstraps over items:

- percentiles (Efron 1979), stretched about the estimate by sqrt(n / (n - 1)) t / 1.96, with t
  Student's quantile with n - 1 degrees of freedom: plain percentiles are too narrow by that factor
  for normal items (Hesterberg 2015, The American Statistician 69, section 5.3);
- the studentised bootstrap (Hall 1988), which also covers skewed items.

Rates of yes-or-no items get the interval of Clopper & Pearson 1934.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2_000
#: The probability outside a 95 % interval on either side.
TAIL = 0.025
#: Standard errors below this share of the estimate's are rounding errors of sums.
ROUNDING = 1e-6

Array = NDArray[np.float64]
Numbers = Sequence[float] | Array
#: A smooth function of sums over items that does not change if all sums are doubled. It is called
#: with arrays of any shape, also of complex numbers.
Statistic = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def plain(interval: Interval | None) -> dict[str, float] | None:
    """An interval as plain JSON; None if there is no finite value."""
    if interval is None or not np.isfinite(interval.value):
        return None
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def ratio(numerators: Numbers, denominators: Numbers, seed: int = 0) -> Interval:
    """The sum of numerators divided by the sum of denominators, both [item]; items are resampled.

    With denominators of 1 it is the mean. NaN if all denominators are 0. For [row, item], rows are
    a random sample too (random directions): they are resampled as well, so that the interval also
    covers the choice of rows.
    """
    return estimate(lambda top, bottom: top / bottom, numerators, denominators, seed=seed)


def mean(values: Numbers) -> Interval:
    """The mean of one number per item."""
    return ratio(values, np.ones(np.shape(values)))


def difference(
    first: tuple[Numbers, Numbers], second: tuple[Numbers, Numbers], seed: int = 0
) -> Interval:
    """`ratio(*first) - ratio(*second)` over the same items, which are resampled together."""
    return estimate(lambda a, b, c, d: a / b - c / d, *first, *second, seed=seed)


def share_of_gap(
    own: tuple[Numbers, Numbers], lowest: tuple[Numbers, Numbers], highest: tuple[Numbers, Numbers]
) -> Interval:
    """The position of a ratio between two others: 0 at the lowest, 1 at the highest.

    Items of the three are resampled together, so the interval includes the noise of all three.
    """

    def between(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> Any:
        return (a / b - c / d) / (e / f - c / d)

    return estimate(between, *own, *lowest, *highest)


def rate(numerators: Numbers, denominators: Numbers) -> Interval:
    """`ratio` for shares, whose numerators are between 0 and their denominators. The interval stays
    between 0 and 1, and has a positive width even if all items are equal.
    """
    tops, bottoms = (np.asarray(part, np.float64) for part in (numerators, denominators))
    interval = ratio(tops, bottoms)
    if tops.ndim == 1 and np.isfinite(interval.value):
        counted = bottoms > 0
        yes_or_no = bool(np.isin(tops[counted] / bottoms[counted], (0.0, 1.0)).all())
        alike = bool((bottoms[counted] == bottoms[counted][0]).all())
        if yes_or_no and (alike or interval.value in (0.0, 1.0)):
            low, high = _clopper_pearson(interval.value * counted.sum(), int(counted.sum()))
            return Interval(interval.value, low, high)
    return Interval(interval.value, max(0.0, interval.low), min(1.0, interval.high))


def estimate(statistic: Statistic, *parts: Numbers, seed: int = 0) -> Interval:
    """The value of `statistic` at the sums of `parts` over their items, with its interval.

    parts: [item] or [row, item] each, of the same items, which are resampled together.
    """
    arrays = [np.atleast_2d(np.asarray(part, np.float64)) for part in parts]
    every = np.stack(np.broadcast_arrays(*arrays), -1)  # [row, item, part]
    n_rows, n = every.shape[:2]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        value = float(statistic(*every.sum((0, 1))))
        if not np.isfinite(value):
            return Interval(value, value, value)
        counts = _counts(n, seed)
        sums = np.stack([counts @ row for row in every])  # [row, resample, part]
        drawn = np.random.default_rng([seed, n_rows]).integers(
            0, n_rows, (_rows_drawn(n_rows), RESAMPLES)
        )
        resampled = statistic(*np.moveaxis(sums[drawn, np.arange(RESAMPLES)].sum(0), -1, 0))
        low, high = np.nanpercentile(resampled, [100 * TAIL, 100 * (1 - TAIL)])
        stretch = _stretch(n)
        low, high = value - stretch * (value - low), value + stretch * (high - value)
        if n_rows == 1 and n > 2:
            t_low, t_high = _studentised(statistic, every[0], counts, sums[0], value)
            low, high = min(low, t_low), max(high, t_high)
    return Interval(value, min(value, float(low)), max(value, float(high)))


def _studentised(
    statistic: Statistic, items: Array, counts: Array, sums: Array, value: float
) -> tuple[float, float]:
    """items: [item, part]; sums: [resample, part]."""
    n = len(items)
    products = (items[:, :, None] * items[:, None, :]).reshape(n, -1)

    def error(at: Array, moments: Array) -> Array:
        """Standard errors [resample] of the statistic, to the first order in the items."""
        slopes = _gradient(statistic, at)
        squares = moments.reshape(len(at), items.shape[1], items.shape[1])
        variance = np.einsum("rk,rkl,rl->r", slopes, squares, slopes) * n / (n - 1)
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)))

    own = float(error(items.sum(0)[None], products.sum(0)[None])[0])
    errors = error(sums, counts @ products)
    quotients = (statistic(*sums.T) - value) / errors
    # A resample of equal items has no spread to divide by, but for rounding.
    known = quotients[np.isfinite(quotients) & (errors > ROUNDING * own)]
    if not known.size or not np.isfinite(own):
        return value, value
    low, high = np.percentile(known, [100 * TAIL, 100 * (1 - TAIL)])
    return value - own * float(high), value - own * float(low)


def _gradient(statistic: Statistic, sums: Array) -> Array:
    """Derivatives [resample, part] with respect to each sum, exact by a complex step."""
    step = 1e-30
    derivatives = []
    for part in range(sums.shape[1]):
        moved = sums.astype(np.complex128)
        moved[:, part] += 1j * step
        derivatives.append(np.imag(statistic(*moved.T)) / step)
    return np.stack(derivatives, -1)


@lru_cache(maxsize=8)
def _counts(n: int, seed: int) -> Array:
    """How often each resample contains each of n items, [resample, item]."""
    items = np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))
    flat = (items + n * np.arange(RESAMPLES)[:, None]).ravel()
    counts = np.bincount(flat, minlength=n * RESAMPLES).reshape(RESAMPLES, n).astype(np.float64)
    counts.setflags(write=False)
    return counts


def _stretch(n: int) -> float:
    """The factor by which percentiles of n items are too narrow; 1 for a single item."""
    return 1.0 if n == 1 else _student(n - 1) / 1.96 * float(np.sqrt(n / (n - 1)))


def _rows_drawn(n: int) -> int:
    """How many of n rows a resample draws, such as two of five.

    The mean of n rows drawn from n has only (n - 1) / n of the variance of n new ones, and with few
    rows Student's t is wider than the normal distribution. Drawing fewer rows corrects both, and
    means stay between the smallest and the largest row.
    """
    return 1 if n == 1 else max(1, round((n - 1) * (1.96 / _student(n - 1)) ** 2))


def _student(degrees: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 1 - TAIL))


def _clopper_pearson(successes: float, n: int) -> tuple[float, float]:
    from scipy.special import betaincinv

    k = round(successes)
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, TAIL))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - TAIL))
    return low, high
