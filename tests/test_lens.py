"""The lens says which logits move when the last residual stream is nudged, in every family."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from families import D_MODEL, FAMILIES, VOCABULARY, build
from torch import Tensor

from steer.base.errors import ModelError
from steer.models.model import Model
from steer.monitoring.lens import lens, lens_scores
from steer.vectors.sites import Site
from steer.vectors.vector import SteeringVector


def standardised(scores: Tensor) -> Tensor:
    centred = scores - scores.mean()
    return centred / centred.std(correction=0)


def logits_of(model: Model) -> Callable[[Tensor], Tensor]:
    """The whole model as a function of its last residual stream: softcaps, biases and all."""
    network: Any = copy.deepcopy(model.network)
    place = model.hooks.place(Site(model.n_layers - 1, "resid_post"))
    put = torch.zeros(0)

    def replaced(module: Any, inputs: Any, result: Any) -> Any:
        hidden = result if isinstance(result, Tensor) else result[0]
        changed = put.expand_as(hidden)
        return changed if isinstance(result, Tensor) else (changed, *result[1:])

    assert place.side == "output"
    network.get_submodule(place.module).register_forward_hook(replaced)

    def logits(resid: Tensor) -> Tensor:
        nonlocal put
        put = resid
        return network(input_ids=torch.tensor([[5, 9]])).logits[0, -1]

    return logits


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_change_of_the_models_own_logits(family: str) -> None:
    model = tiny.model(family)
    direction = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(1))
    centred = direction - direction.mean()
    resid = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(2))
    resid = resid - resid.mean()
    resid = resid - resid @ centred / (centred @ centred) * centred
    logits = logits_of(model)
    change = logits(resid + 1e-2 * direction) - logits(resid - 1e-2 * direction)
    seen = lens_scores(model, direction[None])[0]
    # A softcap bends the model's logits a little, at each token by itself.
    tolerance = 0.05 if getattr(model.network.config, "final_logit_softcapping", None) else 5e-3
    assert torch.allclose(standardised(seen), standardised(change), atol=tolerance)


def on(model: Model, *directions: Tensor) -> SteeringVector:
    vector = tiny.vector(model, layers=tuple(range(len(directions))))
    return SteeringVector(vector.metadata, torch.stack(directions).numpy().astype(np.float32))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gptj", "gemma2", "cohere"])
def test_turned_round_it_lowers_what_it_raised(family: str) -> None:
    model = tiny.model(family)
    direction = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(3))
    layer_lens, other, short = lens(
        model, on(model, direction, -direction, 1e-6 * direction), top=5
    )
    assert [token.id for token in layer_lens.raised] == [token.id for token in other.lowered]
    assert [token.id for token in layer_lens.raised] == [token.id for token in short.raised]
    assert [token.score for token in layer_lens.raised] == pytest.approx(
        [-token.score for token in other.lowered]
    )
    assert layer_lens.raised[0].score > layer_lens.raised[4].score > 0 > layer_lens.lowered[0].score
    assert layer_lens.raised[0].text == model.token(layer_lens.raised[0].id)


def test_the_embedding_of_a_token_raises_it() -> None:
    model = tiny.model("llama")
    gain = model.network.get_submodule("model.norm").weight
    row = model.network.lm_head.weight[17]
    (layer_lens,) = lens(model, on(model, row * gain), top=1)
    assert layer_lens.raised[0].text == "w17"


def test_a_layer_of_zeros_names_no_token() -> None:
    model = tiny.model("llama")
    empty, full = lens(model, on(model, torch.zeros(D_MODEL), torch.randn(D_MODEL)), top=99)
    assert empty.raised == empty.lowered == ()
    assert len(full.raised) == VOCABULARY


def test_rows_that_are_no_tokens_are_left_out() -> None:
    network: Any = build("llama")
    network.resize_token_embeddings(VOCABULARY + 8, mean_resizing=False)
    network.lm_head.weight.data[VOCABULARY:] = 1e3
    model = tiny.wrapped(network, "padded")
    unpadded, padded = (
        lens(m, on(m, torch.linspace(-1, 2, D_MODEL)), top=3) for m in (tiny.model("llama"), model)
    )
    assert unpadded[0].raised == padded[0].raised


def test_half_precision_gives_the_same_words() -> None:
    model = tiny.wrapped(build("gemma2").to(torch.bfloat16), "half")
    vector = on(tiny.model("gemma2"), torch.linspace(-1, 2, D_MODEL).sin())
    words = [{token.text for token in lens(m, vector, top=3)[0].raised} for m in
             (model, tiny.model("gemma2"))]  # fmt: skip
    assert len(words[0] & words[1]) >= 2


def test_a_projection_before_the_unembedding_is_refused() -> None:
    model = tiny.model("llama")
    with pytest.raises(ModelError, match="no unembedding"):
        lens_scores(model, torch.randn(1, D_MODEL + 1))
