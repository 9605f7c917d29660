"""Bound the projection from below."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from steer.ops.maths import moved, projection
from steer.ops.op import LEVEL, Op

if TYPE_CHECKING:
    from torch import Tensor

    from steer.ops.op import Weight


def apply(h: Tensor, u: Tensor, level: float, weight: Weight) -> Tensor:
    """h + weight max(0, level - p) u: the projection is at least `level`; source as `cap`."""
    return moved(h, u, (level - projection(h, u)).clamp(min=0), weight)


OP = Op(
    name="floor",
    title="floor",
    help="set it where it is below X",
    formula="h + max(0, X - p) u",
    value=LEVEL,
    example="floor=neg",
    order=5,
    apply=apply,
    bounded=True,
    moves=(0.0, math.inf),
)
