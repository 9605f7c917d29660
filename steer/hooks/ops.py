"""What an edit does to activations: tensor to tensor, never in place.

h is [..., d_model] of any float type, u a unit vector float32 [d_model], p = h . u. Every edit is
computed in float32 and returned in float32: whoever holds the activation casts back once, at the
end. `weight` says how much of the edit is made: a number, or float32 [..., 1] for each position;
where it is 0 the result is h, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from steer.steering.operation import OpName

Weight = float | Tensor


def add(h: Tensor, delta: Tensor, weight: Weight = 1.0) -> Tensor:
    """h + weight delta; delta float32 [d_model], or one for each position.

    Turner et al. 2023 (arXiv 2308.10248, section 3).
    """
    # One operation, since it runs for every token; what h has of less precision is widened in it.
    if not isinstance(weight, float):
        return torch.addcmul(h.float(), weight, delta)
    return h + delta if weight == 1.0 else torch.add(h, delta, alpha=weight)


def keeping_norm(before: Tensor, after: Tensor) -> Tensor:
    """`after`, at each position as long as `before`: after |before| / |after|.

    Where `after` is 0, it has no direction, and stays 0. An addition followed by this changes the
    direction of an activation and leaves its length, which grows from layer to layer, to the model.
    """
    wanted, length = (_length(one.float()) for one in (before, after))
    return after.float() * (wanted / length.where(length > 0, 1.0))


def low_rank(h: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """up (down h), what a low-rank edit adds to h besides a vector.

    down float32 [k, d_model]; up float32 [d_model, k]. With a vector b it is the affine form of
    ReFT: Wu et al. 2024 (arXiv 2404.03592, section 3), h + R^T (W h + b - R h), with other names
    for the factors.
    """
    return (h.float() @ down.T) @ up.T


def ablate(h: Tensor, u: Tensor, _level: float = 0.0, weight: Weight = 1.0) -> Tensor:
    """h - weight p u: nothing is left along u.

    Arditi et al. 2024 (arXiv 2406.11717, section 2.4), directional ablation.
    """
    return _moved(h, u, _projection(h, u), weight, -1.0)


def clamp(h: Tensor, u: Tensor, level: float, weight: Weight = 1.0) -> Tensor:
    """h + weight (level - p) u: the projection is `level`.

    As features of a dictionary are clamped: Templeton et al. 2024 (Scaling monosemanticity).
    """
    return _moved(h, u, level - _projection(h, u), weight)


def cap(h: Tensor, u: Tensor, level: float, weight: Weight = 1.0) -> Tensor:
    """h + weight min(0, level - p) u: the projection is at most `level`.

    Lu et al. 2026 (arXiv 2601.10387), activation capping, with the bound on the other side.
    """
    return _moved(h, u, (level - _projection(h, u)).clamp(max=0), weight)


def floor(h: Tensor, u: Tensor, level: float, weight: Weight = 1.0) -> Tensor:
    """h + weight max(0, level - p) u: the projection is at least `level`; source as `cap`."""
    return _moved(h, u, (level - _projection(h, u)).clamp(min=0), weight)


def rotate(h: Tensor, u: Tensor, degrees: float, weight: Weight = 1.0) -> Tensor:
    """Turn h towards u by `weight` times `degrees`, in the plane of both; the length stays.

    With h = p u + q w, w a unit vector across u and t the angle: p' = p cos t + q sin t and
    q' = q cos t - p sin t. It stops at u (at -u for a negative angle). What lies along u has no
    plane and stays. Angular steering (Vu and Nguyen 2025, arXiv 2510.26243), with h in place of
    their second axis, so that all of h turns.
    """
    h = h.float()
    p = _projection(h, u)
    across = h - p * u
    q = _length(across)
    angle = torch.as_tensor(weight * math.radians(degrees), device=h.device)
    p_turned = p * angle.cos() + q * angle.sin()
    q_turned = q * angle.cos() - p * angle.sin()
    # Past u, that is: there all of the length is along u.
    beyond = (q_turned < 0) | (angle.abs() > math.pi)
    p_turned = torch.where(beyond, angle.sign() * torch.hypot(p, q), p_turned)
    stretched = torch.where(beyond, 0.0, q_turned) / q.where(q > 0, 1.0)
    turned = h + (p_turned - p) * u + (stretched - 1) * across
    return torch.where(q > 0, turned, h)


#: The ops that change a projection. Each takes h, u, a level (degrees for rotate) and a weight.
ALONG: dict[OpName, Callable[[Tensor, Tensor, float, Weight], Tensor]] = {
    "ablate": ablate,
    "clamp": clamp,
    "cap": cap,
    "floor": floor,
    "rotate": rotate,
}


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


def _moved(h: Tensor, u: Tensor, way: Tensor, weight: Weight, sign: float = 1.0) -> Tensor:
    """h + sign weight way u, in one step where the weight is a number; way float32 [..., 1]."""
    scaled = way if isinstance(weight, float) and weight == 1.0 else way * weight
    return h + scaled * u if sign > 0 else h - scaled * u


def _length(h: Tensor) -> Tensor:
    """|h|, [..., 1]."""
    return torch.as_tensor(torch.linalg.vector_norm(h, dim=-1, keepdim=True))


def _projection(h: Tensor, u: Tensor) -> Tensor:
    """p = h . u, float32 [..., 1]."""
    return h.float() @ u.unsqueeze(-1)
