"""Plan the edits at each site: the combined numbers of all steers there, in order.

At one site, on activations h:

1. all adds, including low-rank edits, are summed and act on the same h, so their order does not
   matter;
2. all adds with norm=keep are summed likewise, act on the result, and keep its length;
3. the other ops follow in the order of the steers, each on the result of the one before.

So the guarantee of an op other than add (a projection of zero, or a bound) holds at the site
whatever is added there. Of several such ops on vectors that are not orthogonal, the last one's
guarantee holds exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from steer.ops.op import Op
from steer.steering.projection import unit_directions
from steer.steering.steers import Steer, Timing
from steer.vectors.sites import Site
from steer.vectors.vector import Directions, SteeringVector


@dataclass(frozen=True, slots=True)
class Addition:
    """delta + up (down h), with h the original activation. steers: those that it is the sum of.

    delta: float32 [d_model], in activation units. down, up: float32 [k, d_model] and [d_model, k],
    or None without low-rank edits.
    """

    delta: Directions
    down: Directions | None = None
    up: Directions | None = None
    steers: tuple[Steer, ...] = ()

    @property
    def is_nothing(self) -> bool:
        return self.down is None and not self.delta.any()


@dataclass(frozen=True, slots=True)
class ProjectionEdit:
    """An op other than add, which acts on the projection on a unit vector, `direction`, float32
    [d_model]. level: a projection in activation units, or degrees for rotate.
    """

    op: Op
    direction: Directions
    level: float
    coefficient: float
    timing: Timing
    steer: Steer


@dataclass(slots=True)
class SitePlan:
    """All edits at one site, by when they act, without those that have no effect."""

    adds: dict[Timing, Addition] = field(default_factory=dict)
    kept: dict[Timing, Addition] = field(default_factory=dict)
    others: list[ProjectionEdit] = field(default_factory=list)


#: Every write to the residual stream of the model at hand.
WriteSites = Callable[[], Sequence[Site]]


def plan(steers: Sequence[Steer], write_sites: WriteSites) -> dict[Site, SitePlan]:
    """The combined edits of all steers at each site."""
    placed: dict[Site, list[tuple[Steer, int]]] = {}
    for steer in steers:
        for site, layer in _sites(steer, write_sites).items():
            placed.setdefault(site, []).append((steer, layer))
    return {site: _site_plan(parts) for site, parts in placed.items()}


def _sites(steer: Steer, write_sites: WriteSites) -> dict[Site, int]:
    if steer.op.writes:
        return dict.fromkeys(write_sites(), steer.layers[0])
    return steer.sites()


def _site_plan(parts: Sequence[tuple[Steer, int]]) -> SitePlan:
    site_plan = SitePlan()
    adds: dict[bool, list[tuple[Steer, int]]] = {False: [], True: []}
    for steer, layer in parts:
        if steer.op.op.adds:
            adds[steer.op.keep_norm].append((steer, layer))
        elif steer.coefficient.value:
            site_plan.others.extend(_along(steer, layer))
    site_plan.adds, site_plan.kept = _summed(adds[False]), _summed(adds[True])
    return site_plan


def _along(steer: Steer, layer: int) -> list[ProjectionEdit]:
    """One after the other, since a linear op on orthogonal directions acts on all of their span."""
    op, coefficient = steer.op.op, steer.coefficient.value
    return [
        ProjectionEdit(op, direction, steer.level(layer), coefficient, steer.timing, steer)
        for direction in unit_directions(steer.vector, layer)
    ]


def _summed(parts: Sequence[tuple[Steer, int]]) -> dict[Timing, Addition]:
    groups: dict[Timing, list[tuple[Steer, int]]] = {}
    for steer, layer in parts:
        groups.setdefault(steer.timing, []).append((steer, layer))
    # Sorted, since rounding would otherwise depend on the order of the steers.
    ordered = sorted(groups, key=lambda timing: [str(part) for part in timing])
    sums = {timing: _sum(groups[timing]) for timing in ordered}
    return {timing: total for timing, total in sums.items() if not total.is_nothing}


def _sum(parts: Sequence[tuple[Steer, int]]) -> Addition:
    """The sum of additions; in float64, so that their order does not matter."""
    steers = tuple(dict.fromkeys(steer for steer, _ in parts))
    delta = np.sum([steer.delta(layer).astype(np.float64) for steer, layer in parts], axis=0)
    # By vector, so that a vector and its negative cancel exactly.
    factors: dict[tuple[SteeringVector, int], float] = {}
    for steer, layer in parts:
        key = steer.vector, layer
        factors[key] = factors.get(key, 0.0) + steer.coefficient.value
    low_rank = [
        (pair[0], factor * pair[1])
        for (vector, layer), factor in factors.items()
        if factor and (pair := vector.low_rank(layer)) is not None
    ]
    if not low_rank:
        return Addition(delta.astype(np.float32), steers=steers)
    # Concatenated, so that up (down h) is the sum over the parts.
    down = np.concatenate([down for down, _ in low_rank])
    up = np.concatenate([up for _, up in low_rank], axis=1)
    return Addition(delta.astype(np.float32), down, up.astype(np.float32), steers)
