"""The logit lens of a vector: the tokens that it raises and lowers most.

With F(h) the model's own path from the last residual stream to logits, final norm and unembedding,

    lens(v) = (F(v) - F(-v)) / 2,    then centred over the vocabulary and divided by its deviation.

For a LayerNorm with gain g this is W_U (g * (v - mean v) / std v); RMSNorm does not subtract the
mean. Biases cancel, so a vector and its negative give opposite scores. Up to a factor, the score is
the change of the logits when a little of v is added to a residual stream orthogonal to it. Centring
removes the constant that softmax ignores; dividing by the standard deviation makes layers and
models comparable.

The logit lens is nostalgebraist's (2020, "interpreting GPT: the logit lens"); Dar et al. (2022,
arXiv 2209.02535) read parameters and directions through it. It follows the direct path only: it
ignores what later layers do with an early vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steer.base.errors import ModelError, VectorError
from steer.models.model import Model
from steer.vectors.vector import SteeringVector


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token, and its score in standard deviations over the vocabulary."""

    id: int
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class LayerLens:
    """The tokens that one layer's vector raises and lowers most, in that order; a zero vector has
    none."""

    layer: int
    raised: tuple[ScoredToken, ...]
    lowered: tuple[ScoredToken, ...]


def lens(model: Model, vector: SteeringVector, *, top: int = 8) -> list[LayerLens]:
    """The `top` tokens at both ends, for each layer of the vector.

    For a low-rank edit: of its constant part, which does not depend on the activations.

    Raises:
        ModelError: the model has no unembedding of the residual stream's width.
        VectorError: the vector is not in the residual stream.
    """
    if vector.metadata.parts is not None:
        raise VectorError(
            f"{vector.name!r} is at {vector.metadata.site}, which the unembedding does not read",
            hint="the lens is for vectors in the residual stream",
        )
    directions = torch.tensor(vector.directions)
    ids = sorted(set(model.tokenizer.get_vocab().values()))
    scores = lens_scores(model, directions)
    tokens = torch.tensor([token for token in ids if token < scores.shape[1]])
    layers = []
    for layer, direction, row in zip(vector.metadata.layers, directions, scores, strict=True):
        standing = _standardised(row[tokens]) if direction.any() else torch.zeros(0)
        raised, lowered = (
            _first(model, tokens, sign * standing, sign, min(top, len(standing)))
            for sign in (1, -1)
        )
        layers.append(LayerLens(layer, raised, lowered))
    return layers


def nearest(model: Model, vector: SteeringVector, *, top: int = 8) -> list[LayerLens]:
    """The words whose embeddings are nearest to each embedding of a learned token, by cosine.

    `layer` of what is returned counts the token's embeddings, and `score` is the cosine.
    """
    own = torch.tensor(vector.embeddings())
    ids = sorted(set(model.tokenizer.get_vocab().values()))
    weight = model.network.get_input_embeddings().weight.detach().float().cpu()
    tokens = torch.tensor([token for token in ids if token < len(weight)])
    cosines = torch.nn.functional.normalize(own) @ torch.nn.functional.normalize(weight[tokens]).T
    lenses = []
    for index, row in enumerate(cosines):
        scores, order = row.topk(min(top, len(row)))
        words = [
            ScoredToken(int(tokens[i]), model.token(int(tokens[i])), float(score))
            for score, i in zip(scores, order.tolist(), strict=True)
        ]
        lenses.append(LayerLens(index, tuple(words), ()))
    return lenses


@torch.no_grad()
def lens_scores(model: Model, directions: Tensor) -> Tensor:
    """(F(v) - F(-v)) / 2 of each row v: [n, d_model] to float32 [n, vocabulary], on the CPU.

    Raises:
        ModelError: as `lens`.
    """
    unembed = _module(model, model.hooks.unembed)
    norm = _module(model, model.hooks.final_norm)
    weight = getattr(unembed, "weight", None)
    if unembed is None or weight is None or weight.shape[-1] != directions.shape[-1]:
        raise ModelError(
            f"{model.identity.id} has no unembedding of its residual stream's width",
            hint="leave --lens out",
        )
    # Scaled to a root mean square of 1, so that the norm's epsilon does not matter.
    sizes = directions.pow(2).mean(-1, keepdim=True).sqrt()
    units = (directions / sizes.where(sizes > 0, 1)).to(weight.device, weight.dtype)
    # The norm may be on another device or in another precision than the unembedding.
    both = torch.cat([units, -units])
    if norm is not None:
        like = next(norm.parameters(), both)
        both = norm(both.to(like.device, like.dtype))
    logits = unembed(both.to(weight.device, weight.dtype)).float().cpu()
    forward, backward = logits.chunk(2)
    scores: Tensor = (forward - backward) / 2
    return scores


def _module(model: Model, path: str | None) -> torch.nn.Module | None:
    return None if path is None else model.network.get_submodule(path)


def _standardised(row: Tensor) -> Tensor:
    centred = row - row.mean()
    return centred / centred.pow(2).mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny)


def _first(
    model: Model, tokens: Tensor, scores: Tensor, sign: int, top: int
) -> tuple[ScoredToken, ...]:
    # Stable: tokens with the same score stay in the order of their ids.
    order: Sequence[int] = scores.argsort(descending=True, stable=True)[:top].tolist()
    return tuple(
        ScoredToken(int(tokens[at]), model.token(int(tokens[at])), sign * float(scores[at]))
        for at in order
    )
