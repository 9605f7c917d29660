"""A vector from the logit lens: the direction that raises some tokens and lowers others.

At the end of the residual stream the logits of tokens a and b differ by (w_a - w_b) . norm(h), with
the rows w of the unembedding. To first order, the direction that raises the difference most is

    v = mean over h of J_norm(h)^T (w_a - w_b)

where J_norm is the derivative of the final norm, and h the last activations of everyday questions.
The same direction is stored at every layer, with a tenth of the activations' length. It is the
direction that `steer show --lens` reads; it ignores the effect of later layers on an early vector.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from steer.base.errors import InputError, ModelError, UsageError
from steer.concepts.answers import Query
from steer.concepts.questions import everyday
from steer.contrasts.reading import Reading
from steer.fitting.fitting import rounded
from steer.hooks.record import record
from steer.models.model import Model
from steer.vectors.metadata import LayerStatistics, Metadata, Recommendation
from steer.vectors.provenance import ContrastSummary, Method, Read
from steer.vectors.sites import Site
from steer.vectors.vector import SteeringVector

#: The vector's length at each layer, as a share of the mean length of activations.
SHARE = 0.1
#: The recommended layer, as a share of the depth, and the recommended coefficient.
DEPTH, COEFFICIENT = 0.74, 2.0
#: Questions whose activations are read.
_QUESTIONS = 12


def from_tokens(
    model: Model,
    raises: Sequence[str],
    lowers: Sequence[str] = (),
    *,
    name: str,
    description: str = "",
    license: str = "",
) -> SteeringVector:
    """A vector that makes some tokens likelier and others less likely.

    Raises:
        UsageError: there is no token, or a token is on both sides.
        InputError: a text is not one token of the model.
        ModelError: the model has no unembedding of the residual stream's width.
    """
    if not raises and not lowers:
        raise UsageError("name a token to raise or to lower")
    sides = [[_token(model, text) for text in side] for side in (raises, lowers)]
    if both := set(sides[0]) & set(sides[1]):
        raise UsageError(f"{model.token(min(both))!r} is to be raised and lowered")
    last = Site(model.n_layers - 1, "resid_post")
    sites = [Site(layer, "resid_post") for layer in range(model.n_layers)]
    lengths, ends = _read(model, sites)
    direction = _direction(model, sides, ends[:, sites.index(last)])
    unit = direction / np.linalg.norm(direction)
    layers = tuple(site.layer for site in sites)
    rows = np.stack([SHARE * length * unit for length in lengths]).astype(np.float32)
    statistics = tuple(
        LayerStatistics(
            layer=layer,
            norm=rounded(float(np.linalg.norm(row.astype(np.float64)))),
            resid_norm=rounded(float(length)),
        )
        for layer, row, length in zip(layers, rows, lengths, strict=True)
    )
    digest = hashlib.sha256(json.dumps(sides).encode()).hexdigest()
    metadata = Metadata(
        name=name,
        description=description or _described(raises, lowers),
        license=license,
        model=model.identity,
        site="resid_post",
        layers=layers,
        method=Method(name="lens"),
        read=Read(positions="unknown"),
        contrast=ContrastSummary(
            kind="unknown",
            n=0,
            sha256=digest,
        ),
        statistics=statistics,
        recommended=Recommendation(
            layers=(min(model.n_layers - 1, round(DEPTH * model.n_layers)),),
            coefficient=COEFFICIENT,
            evidence="the unembedding of tokens; no sweep was run",
        ),
    )
    return SteeringVector(metadata, rows)


def _described(raises: Sequence[str], lowers: Sequence[str]) -> str:
    sides = (("raises", raises), ("lowers", lowers))
    return ", ".join(f"{verb} {' and '.join(map(repr, side))}" for verb, side in sides if side)


def _token(model: Model, text: str) -> int:
    ids = model.encode(text, special=False)
    if len(ids) != 1:
        parts = ", ".join(repr(model.token(id_)) for id_ in ids[:6])
        raise InputError(
            f"{text!r} is {len(ids)} tokens of {model.identity.id}: {parts}",
            hint="name one token; most words begin with a blank",
        )
    return ids[0]


def _read(model: Model, sites: Sequence[Site]) -> tuple[np.ndarray, np.ndarray]:
    """Mean lengths of activations [site], and those of last tokens [question, site, d_model]."""
    chat = model.template.exists
    rows = [
        Query("", question, chat).ids(model) for question in everyday(chat=chat).train[:_QUESTIONS]
    ]
    readings = [Reading(ids, ((len(ids) - 1, len(ids)),)) for ids in rows]
    ends = np.zeros((len(rows), len(sites), model.identity.d_model))
    lengths = np.zeros((len(rows), len(sites)))
    for batch in record(model, readings, sites):
        ends[batch.indices] = batch.activations
        lengths[batch.indices] = batch.norms
    return lengths.mean(0), ends


def _direction(model: Model, sides: Sequence[Sequence[int]], ends: np.ndarray) -> np.ndarray:
    """The gradient of the tokens' logits with respect to the end of the residual stream."""
    network = model.network
    unembed = network.get_submodule(model.hooks.unembed) if model.hooks.unembed else None
    weight = getattr(unembed, "weight", None)
    if not isinstance(weight, Tensor) or weight.shape[-1] != model.identity.d_model:
        raise ModelError(f"{model.identity.id} has no unembedding of its residual stream's width")
    wanted = torch.zeros(weight.shape[-1])
    for ids, sign in zip(sides, (1.0, -1.0), strict=True):
        for token in ids:
            wanted += sign * weight[token].detach().float().cpu() / len(ids)
    norm = network.get_submodule(model.hooks.final_norm) if model.hooks.final_norm else None
    if norm is None:
        return wanted.double().numpy()
    like = next(norm.parameters(), weight)
    with torch.enable_grad():
        h = torch.tensor(ends).to(like.device, like.dtype).requires_grad_(True)
        value = (norm(h).float() @ wanted.to(like.device)).mean()
        (gradient,) = torch.autograd.grad(value, h)
    return np.asarray(gradient.double().mean(0).cpu().numpy())
