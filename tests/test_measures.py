"""The measures, each on a case worked by hand, and by their laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steer.base.intervals import difference, mean, ratio
from steer.measures.baselines import LEVEL, N_CHANCE, reach_of_chance
from steer.measures.formulas import (
    distinct,
    has_word,
    multiple_choice,
    preference,
    share_moved,
    wrong_way,
)

nats = st.floats(-800, 0)


def test_preference_and_matching_answer_by_hand() -> None:
    # p(positive) .6 and .2, p(negative) .3 and .2.
    positive, negative = np.log([0.6, 0.2]), np.log([0.3, 0.2])
    assert preference(positive, negative) == pytest.approx([math.log(2), 0])
    assert multiple_choice(preference(positive, negative)) == pytest.approx([0.6 / 0.9, 0.5])


@given(st.lists(st.tuples(nats, nats), min_size=1))
def test_the_two_answers_share_all_probability_between_them(
    pairs: list[tuple[float, float]],
) -> None:
    positive, negative = zip(*pairs, strict=True)
    chosen = multiple_choice(preference(positive, negative))
    other = multiple_choice(preference(negative, positive))
    assert ((chosen >= 0) & (chosen <= 1)).all()
    np.testing.assert_allclose(chosen + other, 1)


def test_which_items_move_the_wrong_way() -> None:
    shifts = [0.5, -0.1, 0.0, -2.0]
    assert share_moved(shifts).value == 0.25  # what did not move did not move the right way
    assert wrong_way(shifts) == [3, 1]


def test_distinct_by_hand() -> None:
    assert distinct([1, 2, 1, 2]) == (2, 3)  # 12, 21, 12
    assert distinct("abc") == (2, 2)
    assert distinct([7]) == (0, 0)
    assert distinct([1, 1, 1, 1], n=3) == (1, 2)


@given(st.lists(st.integers(0, 5)), st.integers(1, 4))
def test_distinct_counts_every_gram_once(tokens: list[int], n: int) -> None:
    different, all_tokens = distinct(tokens, n)
    assert all_tokens == max(0, len(tokens) - n + 1)
    assert min(all_tokens, 1) <= different <= all_tokens


def test_words_are_whole_words_in_either_case() -> None:
    assert has_word("So Glad!", ["glad"])
    assert has_word("as it were, he left", ["as it were"])
    assert not has_word("gladly", ["glad"])
    assert not has_word("a.b", ["a?b"])  # a word is no pattern


def test_difference_by_hand() -> None:
    interval = difference(([3.0, 3.0], [1.0, 1.0]), ([1.0, 1.0], [2.0, 2.0]))
    assert (interval.value, interval.low, interval.high) == (2.5, 2.5, 2.5)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=20))
def test_items_are_drawn_together(values: list[float]) -> None:
    """What differs by the same on every item differs by that for certain, however items vary."""
    ones = [1.0] * len(values)
    interval = difference(([value + 1 for value in values], ones), (values, ones))
    assert (interval.low, interval.high) == pytest.approx((1, 1))
    assert mean(values) == ratio(values, ones)


@pytest.mark.parametrize("n_places", [1, 5, 60])
def test_what_means_nothing_is_seldom_out_of_the_reach_of_chance(n_places: int) -> None:
    # Layers differ in how much a direction does there; what is taken is the best of all.
    rng = np.random.default_rng(n_places)
    spreads = rng.uniform(0.5, 2, n_places)
    n_out = 0
    for _ in range(2_000):
        sample = rng.normal(0.3, spreads)
        best = int(sample.argmax())
        drawn = rng.normal(0.3, spreads[best], N_CHANCE)
        n_out += sample[best] > reach_of_chance(drawn.tolist(), n_places)
    assert n_out / 2_000 < 1.3 * LEVEL
    assert reach_of_chance([0.1, 0.2, 0.3], 2) < reach_of_chance([0.1, 0.2, 0.3], 3)
