"""Intervals hold what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from steer.base.intervals import ratio


def test_the_value_is_the_ratio_of_the_sums() -> None:
    interval = ratio([1, 0, 3], [2, 2, 4])
    assert interval.value == 0.5
    assert interval.low <= 0.5 <= interval.high


def test_without_spread_there_is_no_doubt() -> None:
    interval = ratio([2.0] * 9, [4.0] * 9)
    assert (interval.low, interval.value, interval.high) == (0.5, 0.5, 0.5)


def test_nothing_to_divide_by_is_no_number() -> None:
    assert math.isnan(ratio([0.0], [0.0]).value)


def test_the_true_mean_is_inside_about_19_times_of_20() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(200):
        values = rng.exponential(2.0, 80)
        interval = ratio(values.tolist(), [1.0] * 80, seed)
        inside += interval.low <= 2.0 <= interval.high
    assert 0.88 <= inside / 200 <= 0.99


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
