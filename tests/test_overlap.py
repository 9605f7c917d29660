"""Held-out texts are told from those that a vector was made from."""

from __future__ import annotations

import msgspec
import pytest
from conftest import make_vector
from hypothesis import given
from hypothesis import strategies as st

from steer.base.errors import InputError, VectorError
from steer.contrasts import contrast_files, heldout, overlap
from steer.contrasts.contrasts import Contrasts, ContrastSource
from steer.contrasts.frame import Frame
from steer.contrasts.schema import Names
from steer.vectors import store
from steer.vectors.metadata import decode, encode

words = st.lists(st.text("abc", min_size=1, max_size=6), max_size=12)


@given(words, words)
def test_what_was_seen_is_known_and_what_was_not_is_not(seen: list[str], new: list[str]) -> None:
    kept = overlap.sketch(seen)
    overlaps = overlap.known(new, kept)
    assert [new[index] for index in overlaps] == [text for text in new if text in seen]
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


def read(*records: object, **source: object) -> Contrasts:
    rows = [(f"x:{number}", record) for number, record in enumerate(records, 1)]
    named = {} if "texts" in source else {"file": "x"}
    return contrast_files.read(ContrastSource(**named, **source), lambda _: rows)  # type: ignore[arg-type]


PAIR = {"prompt": "p ", "positive": "a", "negative": "b"}


def test_texts_of_every_kind_of_contrast_are_kept() -> None:
    assert list(overlap.texts_of(read(PAIR))) == ["p a", "p b"]
    of_sets = read({"text": "a", "label": 1}, {"text": "b", "label": 0}, {"text": "c", "label": 0})
    assert list(overlap.texts_of(of_sets)) == ["a", "b", "c"]
    of_conditions = read("t", texts="x", positive=("glad", "merry"), negative=("sad",))
    assert set(overlap.texts_of(of_conditions)) == {"t"}


@pytest.mark.parametrize(
    "frame",
    [Frame(chat=True), Frame(chat=True, system="s"), Frame(template="Say: {text}")],
    ids=str,
)
def test_what_stands_round_all_texts_makes_no_other_text(frame: Frame) -> None:
    """A vector of a chat, measured on plain texts, and the other way round."""
    pair = PAIR if frame.template is None else {"positive": "a", "negative": "b"}
    framed, plain = (
        list(overlap.texts_of(read(pair, frame=frame_))) for frame_ in (frame, Frame())
    )
    assert overlap.known(plain, overlap.sketch(framed)) == [0, 1]
    assert overlap.known(framed, overlap.sketch(plain)) == [0, 1]


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


def test_one_file_is_made_from_and_measured_on_and_no_pair_is_both() -> None:
    rows = [
        {"prompt": f"about {w}{n}", "positive": f"yes {w} {n}", "negative": f"no {n} {w}"}
        for n, w in enumerate(
            [
                "anchor",
                "bell",
                "cloud",
                "drum",
                "egg",
                "fern",
                "goat",
                "hill",
                "ink",
                "jar",
                "kite",
                "leaf",
            ]
        )
    ] * 3
    rows = [row | {"prompt": f"{row['prompt']} {i}"} for i, row in enumerate(rows)]
    records = [(f"line {number}", row) for number, row in enumerate(rows)]
    made_from = contrast_files.read(
        ContrastSource("pairs", held_out=0.5, frame=Frame(chat=True)), lambda _: records
    )
    every = heldout.read(records, chat=True)
    metadata = with_items(overlap.sketch(overlap.texts_of(made_from)))
    left, line = heldout.without_seen([metadata], every)
    assert left.pairs is not None and every.pairs is not None
    assert set(left.pairs.positive).isdisjoint(made_from.positive)
    assert {*left.pairs.positive, *made_from.positive} == set(every.pairs.positive)
    assert heldout.check_unseen([metadata], left.all_texts) == []
    assert f"{len(made_from.positive)} of these {len(rows)} pairs" in line
    few = every.some(range(4))
    assert heldout.without_seen([metadata], few) == (few, "")
    assert heldout.without_seen([with_items(overlap.sketch(["else"]))], every) == (every, "")


def test_files_that_do_not_say_are_warned_of_and_keep_their_bytes() -> None:
    metadata = with_items(None)
    (warning,) = heldout.check_unseen([metadata], ["three"])
    assert "does not record" in warning
    assert "items" not in encode(metadata)
    assert '"unit"' not in encode(metadata)
    known = with_items(overlap.sketch(["one"]))
    assert decode(encode(known), "x") == known
    original = make_vector().sealed()
    assert store.from_bytes(store.to_bytes(original), "x").sha256 == original.sha256


def held(*records: object, **options: object) -> heldout.HeldOut:
    rows = [(f"x:{number}", record) for number, record in enumerate(records, 1)]
    return heldout.read(rows, **options)  # type: ignore[arg-type]


def test_texts_and_pairs_are_told_apart() -> None:
    is_held = held({"text": "a"}, "b", "")
    assert is_held.all_texts == ["a", "b"]
    assert is_held.notes == ("empty texts that are left out: 1",)
    assert held({"text": "a", "more": 1}).notes == ("fields that are not read: more",)
    pairs = held({"chosen": "a", "rejected": "b", "question": "p "})
    assert pairs.pairs is not None
    assert (pairs.pairs.completes, pairs.prompts, pairs.chat) == (True, ["p "], False)
    assert held({"a": "x", "b": "y"}, names=Names({"positive": "a", "negative": "b"})).pairs
    for records in ((), ("",)):
        with pytest.raises(InputError, match="there are no"):
            held(*records)


def test_chats_say_what_a_user_asked() -> None:
    messages = [{"role": "user", "content": "How?"}]
    row = {"prompt": messages, "positive": "Well.", "negative": "Badly."}
    for is_held in (held(row), held(row | {"prompt": "How?"}, chat=True)):
        assert (is_held.chat, is_held.prompts) == (True, ["How?"])
    with pytest.raises(InputError, match="chat messages and others plain"):
        held({"text": messages}, {"text": "b"})


@pytest.mark.parametrize(
    "records",
    [
        [{"text": "a", "label": 1}, {"text": "b", "label": 0}],
        [{"positive": ["a"], "negative": ["b", "c"]}],
        [{"positive": "glad", "negative": "sad", "texts": ["a"]}],
    ],
    ids=["labelled", "sets", "conditions"],
)
def test_what_is_not_paired_is_refused(records: list[object]) -> None:
    with pytest.raises(InputError, match="not held-out pairs"):
        held(*records)
