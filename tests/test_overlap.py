"""Held-out texts are told from those that a vector was made from."""

from __future__ import annotations

import msgspec
import pytest
from conftest import make_vector
from hypothesis import given
from hypothesis import strategies as st

from steer import heldout, overlap, store
from steer.contrasts import conditions, pairs
from steer.errors import InputError, VectorError
from steer.metadata import decode, encode

words = st.lists(st.text("abc", min_size=1, max_size=6), max_size=12)


@given(words, words)
def test_what_was_seen_is_known_and_what_was_not_is_not(seen: list[str], new: list[str]) -> None:
    kept = overlap.sketch(seen)
    found = overlap.known(new, kept)
    assert [new[index] for index in found] == [text for text in new if text in seen]
    assert kept == overlap.sketch(reversed(seen))
    assert overlap.merged([kept, overlap.sketch(new)]) == overlap.sketch([*seen, *new])


def test_white_space_does_not_make_another_text() -> None:
    assert overlap.known([" a  b\n"], overlap.sketch(["a b"])) == [0]


def test_very_many_texts_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "MOST", 50)
    texts = [f"text {number}" for number in range(1_000)]
    kept = overlap.sketch(texts)
    assert len(overlap.known(texts, kept)) == 50
    assert not overlap.known(["another"], kept)


def test_unknown_parts_make_the_whole_unknown() -> None:
    assert overlap.merged([overlap.sketch(["a"]), None]) is None


@pytest.mark.parametrize("kept", ["?", "YQ=", "YWJj"])
def test_damaged_hashes_are_refused(kept: str) -> None:
    with pytest.raises(VectorError, match="damaged"):
        overlap.known(["a"], kept)


def test_both_sides_of_a_pair_count_and_of_conditions_the_text() -> None:
    of_pairs = pairs(b'{"prompt": "p ", "positive": "a", "negative": "b"}', "x")
    assert overlap.texts_of(of_pairs) == ["p a", "p b"]
    of_conditions = conditions(b'["t"]', "x", "glad", "sad")
    assert overlap.texts_of(of_conditions) == ["t"]


def with_items(items: str | None) -> heldout.Metadata:
    metadata = make_vector().metadata
    contrast = msgspec.structs.replace(metadata.contrast, items=items)
    return msgspec.structs.replace(metadata, contrast=contrast)


def test_overlap_is_an_error_unless_allowed() -> None:
    metadata = with_items(overlap.sketch(["one", "two"]))
    assert heldout.check_unseen([metadata], ["three"]) == []
    with pytest.raises(InputError, match="made from 1 of these 2 texts, such as 'two'"):
        heldout.check_unseen([metadata], ["three", "two"])
    (warning,) = heldout.check_unseen([metadata], ["two"], allowed=True)
    assert "made from 1 of these 1" in warning


def test_files_that_do_not_say_are_warned_of_and_keep_their_bytes() -> None:
    metadata = with_items(None)
    (warning,) = heldout.check_unseen([metadata], ["three"])
    assert "does not say" in warning
    assert "items" not in encode(metadata)
    assert '"unit"' not in encode(metadata)
    known = with_items(overlap.sketch(["one"]))
    assert decode(encode(known), "x") == known
    original = make_vector().sealed()
    assert store.from_bytes(store.to_bytes(original), "x").sha256 == original.sha256


def test_texts_and_pairs_are_told_apart() -> None:
    assert heldout.read(b'{"text": "a"}\n"b"', "x").texts == ("a", "b")
    found = heldout.read(b'{"positive": "a", "negative": "b"}', "x").pairs
    assert found is not None
    assert len(found.pairs) == 1
    with pytest.raises(InputError, match="x is empty"):
        heldout.read(b" ", "x")
    with pytest.raises(InputError, match="x:2: the text is empty"):
        heldout.read(b'"a"\n""', "x")
