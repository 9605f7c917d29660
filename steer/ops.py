"""What an edit does to activations: tensor to tensor, never in place."""

from __future__ import annotations

import torch
from torch import Tensor


def add(resid: Tensor, delta: Tensor, mask: Tensor | None = None) -> Tensor:
    """h + delta, at the positions of `mask`.

    resid [..., position, d_model] of any float type; delta float32 [d_model], or one for each
    position, as resid; mask bool [..., position, 1] or None for all. Computed in float32 and cast
    back, so that a small delta is not lost to half precision before it is added. Turner et al. 2023
    (arXiv 2308.10248, section 3).
    """
    edited = resid.float() + (delta if mask is None else mask * delta)
    return edited.to(resid.dtype)


def low_rank(resid: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """up (down h), what a low-rank edit adds to h besides a vector.

    resid [..., d_model] of any float type; down float32 [k, d_model]; up float32 [d_model, k].
    Returns float32 [..., d_model]. With a vector b it is the affine form of ReFT: Wu et al. 2024
    (arXiv 2404.03592, section 3), h + R^T (W h + b - R h), with other names for the factors.
    """
    return (resid.float() @ down.T) @ up.T


def pool(resid: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums over positions: resid [row, position, d_model], weights [row, sum, position].

    Returns float32 [row, sum, d_model].
    """
    return weights @ resid.float()


def pooled_norm(resid: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean lengths of the activations, float32 [row, sum]; shapes as in `pool`."""
    lengths: Tensor = torch.linalg.vector_norm(resid.float(), dim=-1, keepdim=True)
    return (weights @ lengths).squeeze(-1)


def read(h: Tensor, weights: Tensor, offset: Tensor) -> Tensor:
    """h . weights + offset, projections in the units that these stand for.

    weights float32 [d_model, n], offset float32 [n]; float32 [..., n].
    """
    return h.float() @ weights + offset
