"""Remove the projection."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from steer.ops.maths import projection
from steer.ops.op import Op

if TYPE_CHECKING:
    from torch import Tensor

    from steer.ops.op import Weight


def apply(h: Tensor, u: Tensor, _value: float, weight: Weight) -> Tensor:
    """h - weight p u: nothing is left along u.

    Arditi et al. 2024 (arXiv 2406.11717, section 2.4), directional ablation.
    """
    p = projection(h, u)
    scaled = p if isinstance(weight, float) and weight == 1.0 else p * weight
    return h - scaled * u


OP = Op(
    name="ablate",
    title="ablation",
    help="remove the projection; 0.5,ablate: half of it",
    formula="h - p u",
    example="ablate",
    order=2,
    apply=apply,
    linear=-1.0,
    moves=(-math.inf, math.inf),
)
