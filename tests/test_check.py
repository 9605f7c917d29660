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
    sides = [tuple(Passage("", text) for text in side) for side in (positive, negative)]
    return Contrasts("unpaired", *sides, paired=False)


def warnings_of(contrasts: Contrasts) -> Giveaways:
    return giveaways(contrasts)


def test_a_set_without_faults_has_no_warnings() -> None:
    sides = [[text(rng.randint(5, 15)) for _ in range(N)] for _ in range(2)]
    for contrasts in (unpaired(*sides), pairs(*zip(*sides, strict=True))):
        assert warnings_of(contrasts).warnings(paired=contrasts.paired) == []


@pytest.mark.parametrize("longer", [0, 1])
@pytest.mark.parametrize("paired", [True, False])
def test_a_set_that_differs_only_in_length_is_called_so(paired: bool, longer: int) -> None:
    sides = [[text(12 if side == longer else 7) for _ in range(N)] for side in range(2)]
    contrasts = pairs(*zip(*sides, strict=True)) if paired else unpaired(*sides)
    warnings = warnings_of(contrasts)
    assert warnings.length_auc == 1 - longer
    (warning,) = warnings.warnings(paired=contrasts.paired)
    assert "length alone separates the sides" in warning


def test_pairs_whose_longer_side_is_always_the_same_differ_in_length() -> None:
    texts = [text(rng.randint(4, 40)) for _ in range(N)]
    cut = [text.rsplit(" ", 1)[0] for text in texts]
    assert warnings_of(pairs(*zip(texts, cut, strict=True))).length_auc == 1
    assert abs(warnings_of(unpaired(texts, cut)).length_auc - 0.5) < 0.1


def test_first_words_that_give_the_side_away_are_called_so() -> None:
    rows = [(f"Sure {text(6)}", f"Sorry {text(6)}") for _ in range(N)]
    for contrasts in (pairs(*rows), unpaired(*map(list, zip(*rows, strict=True)))):
        warnings = warnings_of(contrasts)
        assert warnings.first_token == 1
        (warning,) = warnings.warnings(paired=contrasts.paired)
        assert "the first word gives the side away" in warning
    # After a common beginning too; but not if each side says it as often.
    assert warnings_of(pairs(*((f"I said {a}", f"I said {b}") for a, b in rows))).first_token == 1
    mixed = [pair[:: 1 if index % 2 else -1] for index, pair in enumerate(rows)]
    assert warnings_of(pairs(*mixed)).first_token == 0.5


def test_repeats_are_counted() -> None:
    rows = [(text(8), text(8)) for _ in range(N)]
    warnings = warnings_of(pairs(*rows, rows[0], rows[0], ("same", "same")))
    assert (warnings.duplicates, warnings.equal_sides) == (2, 1)
    assert warnings.warnings(paired=True) == [
        "2 pairs repeat an earlier one and count twice; leave them out",
        "1 pairs have the same text on both sides; leave them out",
    ]
    positive, negative = map(list, zip(*rows, strict=True))
    warnings = warnings_of(unpaired([*positive, positive[0]], [*negative, positive[1]]))
    assert (warnings.duplicates, warnings.equal_sides) == (1, 1)


def test_near_duplicates_in_other_folds_are_found() -> None:
    once = [text(30) for _ in range(31)]  # in fold i, and one on
    twice = once + [f"{text.upper()}!" for text in once]
    warnings = warnings_of(unpaired(twice, [text(30) for _ in twice]))
    assert warnings.near_duplicates == 0.5
    assert "near-duplicates of others" in warnings.warnings(paired=False)[-1]
    # In one fold they are held out together.
    together = once[:30] + [f"{text}!" for text in once[:30]]
    assert warnings_of(unpaired(together, [text(30) for _ in together])).near_duplicates == 0


def test_under_conditions_only_the_texts_are_looked_at() -> None:
    texts = [text(6) for _ in range(N)]
    sides = [tuple(Passage(f"{c} ", text) for c in ("a", "b") for text in texts) for _ in range(2)]
    negative = tuple(Passage("", passage.text) for passage in sides[0])
    contrasts = Contrasts("conditions", sides[0], negative, conditions=(("a", "b"), ("", "")))
    warnings = warnings_of(contrasts)
    assert (warnings.duplicates, warnings.near_duplicates, warnings.length_auc) == (0, 0, None)
    assert warnings.warnings(paired=contrasts.paired) == []


def test_too_few_texts_say_nothing() -> None:
    warnings = warnings_of(pairs(("Sure, a b c", "Sorry")))
    assert (warnings.length_auc, warnings.first_token, warnings.near_duplicates) == (None, None, 0)


def jaccard(first: list[int], other: list[int]) -> float:
    runs = [{tuple(words[i : i + 3]) for i in range(len(words) - 2)} for words in (first, other)]
    return len(runs[0] & runs[1]) / len(runs[0] | runs[1])


@given(st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=8), max_size=8))
def test_near_duplicates_are_those_that_share_their_runs(rows: list[list[int]]) -> None:
    duplicates = near_duplicates([" ".join(map(str, row)) for row in rows])
    for later, row in enumerate(rows):
        for earlier in range(later):
            assert ((earlier, later) in duplicates) == (jaccard(rows[earlier], row) >= 0.8)
