"""Bound the projection from above."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from steer.ops.maths import moved, projection
from steer.ops.op import LEVEL, Op

if TYPE_CHECKING:
    from torch import Tensor

    from steer.ops.op import Weight


def apply(h: Tensor, u: Tensor, level: float, weight: Weight) -> Tensor:
    """h + weight min(0, level - p) u: the projection is at most `level`.

    Lu et al. 2026 (arXiv 2601.10387), activation capping, with the bound on the other side.
    """
    return moved(h, u, (level - projection(h, u)).clamp(max=0), weight)


OP = Op(
    name="cap",
    title="cap",
    help="set it where it is above X",
    formula="h + min(0, X - p) u",
    value=LEVEL,
    example="cap=mid",
    order=4,
    apply=apply,
    bounded=True,
    moves=(-math.inf, 0.0),
)
