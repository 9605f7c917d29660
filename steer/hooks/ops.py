"""Additions to activations and readings of them, as functions of tensors; never in place.

h is [..., d_model] of any float type. Every edit is computed and returned in float32; the caller
casts back once, at the end. `weight` is the fraction of the edit to apply: a number, or float32
[..., 1] for each position; where it is 0 the result is h, bit for bit. The ops that act along a
direction are in `steer.ops`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

Weight = float | Tensor


def add(h: Tensor, delta: Tensor, weight: Weight = 1.0) -> Tensor:
    """h + weight delta; delta float32 [d_model], or one for each position.

    Turner et al. 2023 (arXiv 2308.10248, section 3).
    """
    # A single operation, since it runs for every token; it also converts h to float32.
    if not isinstance(weight, float):
        return torch.addcmul(h.float(), weight, delta)
    return h + delta if weight == 1.0 else torch.add(h, delta, alpha=weight)


def keeping_norm(before: Tensor, after: Tensor) -> Tensor:
    """`after`, at each position as long as `before`: after |before| / |after|.

    Where `after` is 0, it has no direction, and stays 0. An addition followed by this changes the
    direction of an activation and leaves its length, which grows from layer to layer, to the model.
    """
    target, length = (_length(rows.float()) for rows in (before, after))
    return after.float() * (target / length.where(length > 0, 1.0))


def low_rank(h: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """up (down h): the part of a low-rank edit that depends on h.

    down float32 [k, d_model]; up float32 [d_model, k]. With a vector b it is the affine form of
    ReFT: Wu et al. 2024 (arXiv 2404.03592, section 3), h + R^T (W h + b - R h), with other names
    for the factors.
    """
    return (h.float() @ down.T) @ up.T


def read(h: Tensor, weights: Tensor, offset: Tensor) -> Tensor:
    """h . weights + offset, projections in the units that these stand for.

    weights float32 [n, d_model], offset float32 [n]; float32 [..., n].
    """
    return nn.functional.linear(h.float(), weights, offset)


def pool(resid: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums over positions: resid [row, position, d_model], weights [row, sum, position].

    Returns float32 [row, sum, d_model].
    """
    return weights @ resid.float()


def pooled_norm(resid: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean lengths of the activations, float32 [row, sum]; shapes as in `pool`."""
    return (weights @ _length(resid.float())).squeeze(-1)


def _length(h: Tensor) -> Tensor:
    """|h|, [..., 1]."""
    return torch.as_tensor(torch.linalg.vector_norm(h, dim=-1, keepdim=True))
