"""Recording: batches, padding and spans do not change what is read; fits recover what is there."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from recorded import extract, pairs

from steer.errors import InputError, SiteError
from steer.model import Model
from steer.packing import batches
from steer.provenance import Positions
from steer.reading import Reading, Tokens, readings
from steer.record import capture, record
from steer.sites import SITE_NAMES, Site

FAMILIES = ["llama", "gpt2", "gemma2", "qwen3", "falcon", "bloom"]


def random_readings(model: Model, seed: int, count: int = 12) -> list[Reading]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        ids = tuple(int(i) for i in rng.integers(3, 60, rng.integers(2, 14)))
        start = int(rng.integers(0, len(ids)))
        made.append(Reading(ids, start, int(rng.integers(start + 1, len(ids) + 1))))
    return made


def recorded(model: Model, items: list[Reading], sites: list[Site], budget: int) -> np.ndarray:
    out = np.zeros((len(items), len(sites), model.identity.d_model))
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
        whole = capture(model, ids, torch.ones_like(ids), sites)
        for column, site in enumerate(sites):
            alone = whole[site][0, item.start : item.stop].mean(0)
            np.testing.assert_allclose(together[index, column], alone, rtol=1e-4, atol=1e-5)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 100))
def test_batches_hold_every_index_once_within_the_budget(lengths: list[int], budget: int) -> None:
    made = batches(lengths, budget)
    assert sorted(index for batch in made for index in batch) == list(range(len(lengths)))
    for batch in made:
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


@given(ids, ids, st.sampled_from(["pairs", "conditions"]), st.sampled_from(["last", "mean"]))
def test_a_span_is_never_empty_and_is_inside(
    first: tuple[int, ...], second: tuple[int, ...], kind: str, positions: Positions
) -> None:
    sides = [Tokens(side, 0, len(side)) for side in (first, second)]
    for side, reading in zip(sides, readings(*sides, kind, positions), strict=True):  # type: ignore[arg-type]
        assert 0 <= reading.start < reading.stop == len(side.ids)
        if positions == "last":
            assert reading.stop - reading.start == 1


def test_pairs_are_read_from_the_first_token_that_differs() -> None:
    one, other = Tokens((1, 5, 6, 7), 1, 4), Tokens((1, 5, 8, 7, 9), 1, 5)
    assert [r.start for r in readings(one, other, "pairs", "mean")] == [2, 2]
    beginning = Tokens((1, 5), 1, 2)
    assert [r.start for r in readings(one, beginning, "pairs", "mean")] == [2, 1]


SOME = pairs(*[(f"w{i} w{i + 7} w{i + 9}", f"w{i} w{i + 20} w{i + 3}") for i in range(3, 19)])


@pytest.mark.parametrize("site", SITE_NAMES)
def test_the_vector_is_the_difference_of_the_means(site: str) -> None:
    model = tiny.model("llama")
    vector = extract(model, SOME, site=site, layers=(1, 2))
    expected = np.zeros(model.identity.d_model)
    for pair in SOME.pairs:
        for sign, passage in ((1, pair.positive), (-1, pair.negative)):
            ids = torch.tensor([model.encode(passage.whole)])
            seen = capture(model, ids, torch.ones_like(ids), [Site(2, site)])[Site(2, site)]
            expected += sign * seen[0, 2:].mean(0).double().numpy() / len(SOME.pairs)
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
    swapped = pairs(*[(pair.negative.text, pair.positive.text) for pair in SOME.pairs])
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
    with pytest.raises(InputError, match="pair 2 has"):
        extract(model, pairs(("w3", "w4"), (long, "w4")))
    with pytest.raises(SiteError, match="no layer 9"):
        extract(model, SOME, layers=(0, 9))
    with pytest.raises(InputError, match="no direction"):  # unknown words are one token
        extract(model, pairs(("unknown", "words")))


def test_progress_counts_every_passage() -> None:
    counts: list[int] = []
    extract(tiny.model("llama"), SOME, counts.append)
    assert sum(counts) == 2 * len(SOME.pairs)
