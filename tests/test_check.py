"""What a contrast set gives away: each fault is found where it is, and not where it is not."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import pairs

from steer.contrasts.check import giveaways
from steer.contrasts.contrasts import Contrasts
from steer.contrasts.duplicates import near_duplicates
from steer.contrasts.passages import Passage
from steer.vectors.giveaways import Giveaways

N = 60
rng = random.Random(0)
WORDS = [f"word{number}" for number in range(400)]


def text(n: int) -> str:
    return " ".join(rng.sample(WORDS, n))


def unpaired(positive: list[str], negative: list[str]) -> Contrasts:
    sides = [tuple(Passage("", one) for one in side) for side in (positive, negative)]
    return Contrasts("unpaired", *sides, paired=False)


def told(contrasts: Contrasts) -> Giveaways:
    return giveaways(contrasts)


def test_a_set_without_faults_has_no_warnings() -> None:
    sides = [[text(rng.randint(5, 15)) for _ in range(N)] for _ in range(2)]
    for contrasts in (unpaired(*sides), pairs(*zip(*sides, strict=True))):
        assert told(contrasts).warnings(paired=contrasts.paired) == []


@pytest.mark.parametrize("longer", [0, 1])
@pytest.mark.parametrize("paired", [True, False])
def test_a_set_that_differs_only_in_length_is_called_so(paired: bool, longer: int) -> None:
    sides = [[text(12 if side == longer else 7) for _ in range(N)] for side in range(2)]
    contrasts = pairs(*zip(*sides, strict=True)) if paired else unpaired(*sides)
    found = told(contrasts)
    assert found.length_auc == 1 - longer
    (warning,) = found.warnings(paired=contrasts.paired)
    assert "length alone separates the sides" in warning


def test_pairs_whose_longer_side_is_always_the_same_differ_in_length() -> None:
    whole = [text(rng.randint(4, 40)) for _ in range(N)]
    cut = [one.rsplit(" ", 1)[0] for one in whole]
    assert told(pairs(*zip(whole, cut, strict=True))).length_auc == 1
    assert abs(told(unpaired(whole, cut)).length_auc - 0.5) < 0.1


def test_first_words_that_give_the_side_away_are_called_so() -> None:
    rows = [(f"Sure {text(6)}", f"Sorry {text(6)}") for _ in range(N)]
    for contrasts in (pairs(*rows), unpaired(*map(list, zip(*rows, strict=True)))):
        found = told(contrasts)
        assert found.first_token == 1
        (warning,) = found.warnings(paired=contrasts.paired)
        assert "the first word gives the side away" in warning
    # After a common beginning too; but not if each side says it as often.
    assert told(pairs(*((f"I said {a}", f"I said {b}") for a, b in rows))).first_token == 1
    mixed = [pair[:: 1 if index % 2 else -1] for index, pair in enumerate(rows)]
    assert told(pairs(*mixed)).first_token == 0.5


def test_repeats_are_counted() -> None:
    rows = [(text(8), text(8)) for _ in range(N)]
    found = told(pairs(*rows, rows[0], rows[0], ("same", "same")))
    assert (found.duplicates, found.equal_sides) == (2, 1)
    assert found.warnings(paired=True) == [
        "2 pairs repeat an earlier one and count twice; leave them out",
        "1 pairs have the same text on both sides; leave them out",
    ]
    positive, negative = map(list, zip(*rows, strict=True))
    found = told(unpaired([*positive, positive[0]], [*negative, positive[1]]))
    assert (found.duplicates, found.equal_sides) == (1, 1)


def test_near_duplicates_in_other_folds_are_found() -> None:
    once = [text(30) for _ in range(31)]  # in fold i, and one on
    twice = once + [f"{one.upper()}!" for one in once]
    found = told(unpaired(twice, [text(30) for _ in twice]))
    assert found.near_duplicates == 0.5
    assert "near-duplicates of others" in found.warnings(paired=False)[-1]
    # In one fold they are held out together.
    together = once[:30] + [f"{one}!" for one in once[:30]]
    assert told(unpaired(together, [text(30) for _ in together])).near_duplicates == 0


def test_under_conditions_only_the_texts_are_looked_at() -> None:
    texts = [text(6) for _ in range(N)]
    sides = [tuple(Passage(f"{c} ", one) for c in ("a", "b") for one in texts) for _ in range(2)]
    negative = tuple(Passage("", passage.text) for passage in sides[0])
    contrasts = Contrasts("conditions", sides[0], negative, conditions=(("a", "b"), ("", "")))
    found = told(contrasts)
    assert (found.duplicates, found.near_duplicates, found.length_auc) == (0, 0, None)
    assert found.warnings(paired=contrasts.paired) == []


def test_too_few_texts_say_nothing() -> None:
    found = told(pairs(("Sure, a b c", "Sorry")))
    assert (found.length_auc, found.first_token, found.near_duplicates) == (None, None, 0)


def jaccard(one: list[int], other: list[int]) -> float:
    runs = [{tuple(words[i : i + 3]) for i in range(len(words) - 2)} for words in (one, other)]
    return len(runs[0] & runs[1]) / len(runs[0] | runs[1])


@given(st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=8), max_size=8))
def test_near_duplicates_are_those_that_share_their_runs(rows: list[list[int]]) -> None:
    found = near_duplicates([" ".join(map(str, row)) for row in rows])
    for later, row in enumerate(rows):
        for earlier in range(later):
            assert ((earlier, later) in found) == (jaccard(rows[earlier], row) >= 0.8)
