"""Intervals hold what they promise."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from steer.base.intervals import Interval, rate, ratio, share_of_gap


def test_the_value_is_the_ratio_of_the_sums() -> None:
    interval = ratio([1, 0, 3], [2, 2, 4])
    assert interval.value == 0.5
    assert interval.low <= 0.5 <= interval.high


def test_without_spread_there_is_no_doubt() -> None:
    interval = ratio([2.0] * 9, [4.0] * 9)
    assert (interval.low, interval.value, interval.high) == (0.5, 0.5, 0.5)


def test_nothing_to_divide_by_is_no_number() -> None:
    assert math.isnan(ratio([0.0], [0.0]).value)


def coverage(draw: Callable[[np.random.Generator], tuple[Interval, float]], times: int) -> float:
    rng = np.random.default_rng(0)
    drawn = [draw(rng) for _ in range(times)]
    return float(np.mean([bound.low <= true <= bound.high for bound, true in drawn]))


@pytest.mark.parametrize("n", [4, 8, 12, 20, 48])
@pytest.mark.parametrize("kind", ["normal", "exponential", "ratio"])
def test_the_true_mean_is_inside_about_19_times_of_20(kind: str, n: int) -> None:
    """A percentile bootstrap alone has 0.74 to 0.80 of four items, and 0.83 to 0.87 of eight."""

    def draw(rng: np.random.Generator) -> tuple[Interval, float]:
        weights = rng.integers(5, 64, n).astype(float) if kind == "ratio" else np.ones(n)
        values = {
            "normal": rng.normal(1, 1, n),
            "exponential": rng.exponential(1, n),
            "ratio": rng.gamma(4, 0.25, n),
        }[kind]
        return ratio(values * weights, weights, int(rng.integers(8))), 1.0

    assert coverage(draw, 400) >= 0.91


@pytest.mark.parametrize("n", [4, 8, 24])
@pytest.mark.parametrize("p", [0.02, 0.3, 0.5, 0.95])
def test_a_rate_is_inside_at_least_19_times_of_20(p: float, n: int) -> None:
    def draw(rng: np.random.Generator) -> tuple[Interval, float]:
        return rate((rng.random(n) < p).astype(float), np.ones(n)), p

    assert coverage(draw, 300) >= 0.94


def test_a_rate_of_none_or_all_has_its_doubt_and_stays_a_rate() -> None:
    for value, counts in ((0.0, [3.0, 5.0, 4.0]), (1.0, [3.0, 5.0, 4.0])):
        interval = rate([value * n for n in counts], counts)
        assert interval.value == value
        assert 0 <= interval.low <= value <= interval.high <= 1
        assert interval.high - interval.low > 0.5
    few = rate([1.0, 4.0], [5.0, 5.0])
    assert (few.low, few.high) == (0.0, 1.0)


@pytest.mark.parametrize("n", [8, 40])
def test_a_share_of_a_gap_has_the_noise_of_both_its_ends(n: int) -> None:
    """The gap between unsteered and prompt is measured too, on texts of their own."""

    def draw(rng: np.random.Generator) -> tuple[Interval, float]:
        ones = np.ones(n)
        low, own, high = (rng.normal(mean, 1, n) for mean in (0.0, 2.0, 4.0))
        return share_of_gap((own, ones), (low, ones), (high, ones)), 0.5

    assert coverage(draw, 300) >= 0.92
    rng = np.random.default_rng(0)
    ones, own = np.ones(n), np.full(n, 2.0)
    noisy = share_of_gap((own, ones), (np.zeros(n), ones), (rng.normal(4, 1, n), ones))
    assert noisy.high - noisy.low > 0, "the prompt's own noise is missing"


@pytest.mark.parametrize("by_item", [0.0, 0.2, 5.0])
@pytest.mark.parametrize("skewed", [False, True])
def test_a_mean_over_rows_is_of_all_that_could_have_been_drawn(
    skewed: bool, by_item: float
) -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(200):
        rows = rng.exponential(1.0, (5, 1)) - 1 if skewed else rng.normal(size=(5, 1))
        values = rows + by_item * (rng.normal(size=(1, 40)) + rng.normal(size=(5, 40)))
        interval = ratio(values, np.ones(40), seed)
        inside += interval.low <= 0 <= interval.high
    assert inside / 200 >= 0.88


def test_one_row_is_no_row() -> None:
    values = np.random.default_rng(0).normal(size=30)
    assert ratio(values[None], np.ones(30)) == ratio(values, np.ones(30))


@pytest.mark.parametrize("rest", [[0.1, 0.41], [0.9]])
def test_resamples_of_equal_items_do_not_stretch_an_interval(rest: list[float]) -> None:
    values = [1 / 3] * 10 + rest
    interval = ratio(values, np.ones(len(values)))
    spread = max(values) - min(values)
    assert min(values) - spread < interval.low <= interval.high < max(values) + spread
