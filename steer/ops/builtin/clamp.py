"""Set the projection."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from steer.ops.maths import moved, projection
from steer.ops.op import LEVEL, Op

if TYPE_CHECKING:
    from torch import Tensor

    from steer.ops.op import Weight


def apply(h: Tensor, u: Tensor, level: float, weight: Weight) -> Tensor:
    """h + weight (level - p) u: the projection is `level`.

    As features of a dictionary are clamped: Templeton et al. 2024 (Scaling monosemanticity).
    """
    return moved(h, u, level - projection(h, u), weight)


OP = Op(
    name="clamp",
    title="clamp",
    help="set the projection to X, or to pos, neg or mid",
    formula="h + (X - p) u",
    value=LEVEL,
    example="clamp=pos",
    order=3,
    apply=apply,
    moves=(-math.inf, math.inf),
)
