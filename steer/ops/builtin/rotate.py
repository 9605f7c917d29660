"""Turn towards the vector."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from steer.ops.maths import projection
from steer.ops.op import DEGREES, Op

if TYPE_CHECKING:
    from torch import Tensor

    from steer.ops.op import Weight


def apply(h: Tensor, u: Tensor, degrees: float, weight: Weight) -> Tensor:
    """Turn h towards u by `weight` times `degrees`, in the plane of both; the length stays.

    With h = p u + q w, w a unit vector across u and t the angle: p' = p cos t + q sin t and
    q' = q cos t - p sin t. It stops at u (at -u for a negative angle). What lies along u has no
    plane and stays. Angular steering (Vu and Nguyen 2025, arXiv 2510.26243), with h in place of
    their second axis, so that all of h turns.
    """
    h = h.float()
    p = projection(h, u)
    across = h - p * u
    q = across.norm(dim=-1, keepdim=True)
    turn = weight * math.radians(degrees)
    angle = h.new_tensor(turn) if isinstance(turn, float) else turn.to(h.device)
    p_turned = p * angle.cos() + q * angle.sin()
    q_turned = q * angle.cos() - p * angle.sin()
    # Past u all of the length lies along u.
    beyond = (q_turned < 0) | (angle.abs() > math.pi)
    p_turned = (angle.sign() * p.hypot(q)).where(beyond, p_turned)
    stretched = q_turned.masked_fill(beyond, 0.0) / q.where(q > 0, 1.0)
    turned = h + (p_turned - p) * u + (stretched - 1) * across
    kept: Tensor = turned.where(q > 0, h)
    return kept


OP = Op(
    name="rotate",
    title="rotation",
    help="turn by degrees towards the vector; length stays",
    formula="h turned by X degrees towards u",
    value=DEGREES,
    example="rotate=30",
    order=6,
    apply=apply,
    signed=True,
)
