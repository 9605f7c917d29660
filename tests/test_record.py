"""Recording: batches, padding and spans do not change what is read; fits recover what is there."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import extract, pairs
from recorded import settings as read_settings

from steer.base.errors import InputError, SiteError
from steer.contrasts.contrasts import Contrasts
from steer.contrasts.passages import Message, Passage
from steer.contrasts.reading import Reading, Readings, Tokens, TokensOfMany
from steer.extraction import plan
from steer.hooks.packing import batches
from steer.hooks.record import capture, record
from steer.models.model import Model
from steer.vectors.positions import parse
from steer.vectors.sites import STREAM_SITES, Site

FAMILIES = ["llama", "gpt2", "gemma2", "qwen3", "falcon", "bloom"]


def random_readings(model: Model, seed: int, count: int = 12) -> list[Reading]:
    rng = np.random.default_rng(seed)
    batches_made = []
    for _ in range(count):
        ids = tuple(int(i) for i in rng.integers(3, 60, rng.integers(2, 14)))
        start = int(rng.integers(0, len(ids)))
        batches_made.append(Reading(ids, ((start, int(rng.integers(start + 1, len(ids) + 1))),)))
    return batches_made


def recorded(model: Model, items: list[Reading], sites: list[Site], budget: int) -> np.ndarray:
    out = np.zeros((len(items), len(sites) * len(items[0].spans), model.identity.d_model))
    for batch in record(model, items, sites, budget):
        out[batch.indices] = batch.activations
    return out


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_read_what_one_at_a_time_reads(family: str) -> None:
    model = tiny.model(family)
    sites = sorted(model.hooks.places)
    items = random_readings(model, seed=1)
    together = recorded(model, items, sites, 64)
    for index, item in enumerate(items):
        ids = torch.tensor([item.ids])
        activations = capture(model, ids, torch.ones_like(ids), sites)
        for column, site in enumerate(sites):
            alone = activations[site][0, slice(*item.spans[0])].mean(0)
            np.testing.assert_allclose(together[index, column], alone, rtol=1e-5, atol=1e-5)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 100))
def test_batches_hold_every_index_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches_made = batches(lengths, budget)
    assert sorted(index for batch in batches_made for index in batch) == list(range(len(lengths)))
    for batch in batches_made:
        longest = max(lengths[index] for index in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget


def test_a_batch_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model("llama")
    items = random_readings(model, seed=2)
    sites = [Site(1)]
    expected = recorded(model, items, sites, 10_000)
    forward = model.body.forward

    def small_memory(*args: object, input_ids: torch.Tensor, **keywords: object) -> object:
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError
        return forward(*args, input_ids=input_ids, **keywords)

    monkeypatch.setattr(model.body, "forward", small_memory)
    np.testing.assert_allclose(recorded(model, items, sites, 10_000), expected, atol=1e-5)


def test_reading_stops_after_the_highest_layer_asked_for() -> None:
    model = tiny.model("llama")
    ids = torch.tensor([[3, 4, 5]])
    reached = []
    handles = [
        model.network.get_submodule(f"model.layers.{layer}").register_forward_hook(
            lambda *_, layer=layer: reached.append(layer)
        )
        for layer in range(model.n_layers)
    ]
    try:
        capture(model, ids, torch.ones_like(ids), [Site(1)])
    finally:
        for handle in handles:
            handle.remove()
    assert max(reached) <= 1


ids = st.lists(st.integers(0, 5), min_size=1, max_size=8).map(tuple)


def tokens(ids: tuple[int, ...], *, text: tuple[int, int] | None = None) -> Tokens:
    """Of which `text` is what is read; without it all."""
    return Tokens(ids, *(text or (0, len(ids))), len(ids))


def spans(
    first: Tokens, other: Tokens, *asked_positions: str, from_difference: bool = True
) -> list[tuple[tuple[int, int], ...]]:
    positions = [parse(text) for text in asked_positions]
    readings = Readings([first], [other], positions, from_difference=from_difference)
    return [reading.spans for reading in readings]


@given(st.lists(ids, max_size=9))
def test_tokens_of_many_are_what_was_put_in(rows: list[tuple[int, ...]]) -> None:
    readings_made = [
        Tokens(row, 0, n % len(row) + 1, len(row), (("x", n),) if n % 2 else ())
        for n, row in enumerate(rows)
    ]
    kept = TokensOfMany(readings_made)
    back = [Tokens(tuple(reading.ids), *(getattr(reading, name) for name in Tokens.__slots__[1:]))
            for reading in kept]  # fmt: skip
    assert back == readings_made
    assert len(kept) == len(readings_made)


@given(ids, ids, st.booleans(), st.sampled_from(["last", "first", "mean", "-1", "0", "0:", "-2:"]))
def test_a_span_is_never_empty_and_is_inside(
    first: tuple[int, ...], second: tuple[int, ...], from_difference: bool, position: str
) -> None:
    sides = [tokens(side) for side in (first, second)]
    spans_found = spans(*sides, position, from_difference=from_difference)
    for side, ((start, stop),) in zip(sides, spans_found, strict=True):
        assert 0 <= start < stop <= len(side.ids)
        if position in ("last", "first", "-1", "0"):
            assert stop - start == 1


def test_pairs_are_read_from_the_first_token_that_differs() -> None:
    first, other = tokens((1, 5, 6, 7), text=(1, 4)), tokens((1, 5, 8, 7, 9), text=(1, 5))
    assert spans(first, other, "mean") == [((2, 4),), ((2, 5),)]
    assert spans(first, other, "mean", from_difference=False) == [((1, 4),), ((1, 5),)]
    beginning = tokens((1, 5), text=(1, 2))
    assert spans(first, beginning, "mean") == [((2, 4),), ((1, 2),)]


def test_positions_count_the_text_and_what_follows_it() -> None:
    #  <s> a prompt | the text | two of a template
    passage = Tokens((1, 9, 9, 5, 6, 7, 8, 8), 3, 6, 8, (("x", 5),))
    expected = {
        "first": (3, 4), "last": (7, 8), "mean": (3, 6), "completion": (3, 6), "0": (3, 4),
        "4": (7, 8), "-1": (7, 8), "-5": (3, 4), "-2:": (6, 8), "1:3": (4, 6), "-9:": (3, 8),
        "after:x": (5, 8),
    }  # fmt: skip
    for position, span in expected.items():
        assert spans(passage, passage, position, from_difference=False)[0] == (span,), position
    assert spans(passage, passage, *expected, from_difference=False)[0] == tuple(expected.values())
    for beyond in ("5", "-6", "5:"):
        with pytest.raises(InputError, match="positive text 1 has no token at position"):
            spans(passage, passage, beyond, from_difference=False)
    with pytest.raises(InputError, match="no token after 'x'"):
        spans(tokens((1, 2)), passage, "after:x", from_difference=False)


TEXTS = st.lists(st.integers(3, 60), min_size=1, max_size=7).map(
    lambda numbers: " ".join(f"w{number}" for number in numbers)
)
PASSAGES = st.builds(Passage, st.sampled_from(["", "w3 w4 w5 ", "w3 w4 w6 w7 "]), TEXTS)
POSITIONS = ["last", "first", "mean", "0", "-1", "-2:", "0:1", ":3"]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@settings(max_examples=8)
@given(data=st.data())
def test_every_position_is_what_one_passage_alone_gives(family: str, data: st.DataObject) -> None:
    """In any batch size, with prefixes shared, whatever side the tokenizer pads, chat or not."""
    sides = [
        tuple(data.draw(st.lists(PASSAGES, min_size=1, max_size=5), side)) for side in ("+", "-")
    ]
    chat = data.draw(st.booleans(), "chat")
    if chat:
        turns = (Message("system", "w8 w9"),)
        sides = [tuple(Passage("", p.text, "", "user", turns) for p in side) for side in sides]
    if set(sides[0]) == set(sides[1]):
        return
    positions = ",".join([*POSITIONS, *(["suffix"] if chat else [])])
    model = tiny.chat_model(family, data.draw(st.sampled_from(["left", "right"]), "padding"))
    budget = data.draw(st.integers(1, 80), "budget")
    contrasts = Contrasts("unpaired", *sides, paired=False)
    planned = plan(model, contrasts, read_settings(positions, site="resid_post,attn_out"))
    recording = planned.recording
    activations = recorded(model, planned.readings, list(recording.sites), budget)
    for index, reading in enumerate(planned.readings):
        ids = torch.tensor([list(reading.ids)])
        expected = capture(model, ids, torch.ones_like(ids), recording.sites)
        for column, (span, site) in enumerate(
            (span, site) for span in reading.spans for site in recording.sites
        ):
            alone = expected[site][0, slice(*span)].mean(0)
            # Rounding is that of the largest entries, from which the small ones are left.
            rounding = 1e-5 * max(1.0, float(alone.abs().max()))
            np.testing.assert_allclose(activations[index, column], alone, rtol=1e-5, atol=rounding)


SOME = pairs(*[(f"w{i} w{i + 7} w{i + 9}", f"w{i} w{i + 20} w{i + 3}") for i in range(3, 19)])


@pytest.mark.parametrize("site", STREAM_SITES)
def test_the_vector_is_the_difference_of_the_means(site: str) -> None:
    model = tiny.model("llama")
    vector = extract(model, SOME, site=site, layers=(1, 2))
    expected = np.zeros(model.identity.d_model)
    for sign, side in ((1, SOME.positive), (-1, SOME.negative)):
        for passage in side:
            ids = torch.tensor([model.encode(passage.full_text)])
            seen = capture(model, ids, torch.ones_like(ids), [Site(2, site)])[Site(2, site)]
            expected += sign * seen[0, 2:].mean(0).double().numpy() / len(side)
    row = vector.metadata.layers.index(Site(2, site).canonical.layer)
    np.testing.assert_allclose(vector.directions[row], expected, atol=1e-5)


def test_resid_pre_is_stored_as_resid_post_of_the_layer_before() -> None:
    model = tiny.model("llama")
    pre = extract(model, SOME, site="resid_pre", layers=(1, 2))
    post = extract(model, SOME, site="resid_post", layers=(0, 1))
    assert pre.sha256 == post.sha256
    everywhere = extract(model, SOME, site="resid_pre")
    assert everywhere.metadata.site == "resid_pre"
    assert np.array_equal(everywhere.directions[1:], pre.directions[:2])


def test_swapped_sides_give_the_negative() -> None:
    model = tiny.model("llama")
    swapped = Contrasts("pairs", SOME.negative, SOME.positive)
    np.testing.assert_allclose(
        extract(model, swapped).directions,
        -extract(model, SOME).directions,
        atol=1e-6,
    )


def test_the_same_inputs_give_the_same_vector() -> None:
    model = tiny.model("llama")
    assert extract(model, SOME).sha256 == extract(model, SOME).sha256


def test_one_pair_is_enough_for_a_vector_but_not_for_separability() -> None:
    vector = extract(tiny.model("llama"), pairs(("w3", "w4")))
    assert vector.directions.any()
    assert {row.separability for row in vector.metadata.statistics} == {None}


def test_what_cannot_be_read_is_an_error() -> None:
    model = tiny.model("llama")
    long = " ".join(["w5"] * (model.context or 0))
    with pytest.raises(InputError, match="positive text 2 has"):
        extract(model, pairs(("w3", "w4"), (long, "w4")))
    with pytest.raises(SiteError, match="no layer 9"):
        extract(model, SOME, layers=(0, 9))
    with pytest.raises(InputError, match="no direction"):  # unknown words are one token
        extract(model, pairs(("unknown", "words")))


def test_progress_counts_every_passage() -> None:
    counts: list[int] = []
    extract(tiny.model("llama"), SOME, counts.append)
    assert sum(counts) == SOME.n_passages
