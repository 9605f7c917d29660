"""Formulas that ops share. They use only methods of tensors, so importing them loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from steer.ops.op import Weight


def projection(h: Tensor, u: Tensor) -> Tensor:
    """p = h . u, float32 [..., 1]; h [..., d_model] of any float type, u float32 [d_model]."""
    return h.float() @ u.unsqueeze(-1)


def moved(h: Tensor, u: Tensor, distance: Tensor, weight: Weight) -> Tensor:
    """h + weight distance u; distance float32 [..., 1]."""
    scaled = distance if isinstance(weight, float) and weight == 1.0 else distance * weight
    return h + scaled * u
