"""Intervals hold what they promise."""

from __future__ import annotations

import math

import numpy as np

from steer.intervals import ratio


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
