"""Translate steers to edits of each write to the residual stream, still without weights.

Weights can express edits that are the same for every token and affine in the write: adding
constants, and ablating projections from every write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from steer.baking.bakeable import check_bakeable
from steer.base.errors import ModelError, SiteError, VectorError
from steer.hooks.inject import removes_all, write_sites
from steer.models.hookmap import HookMap
from steer.steering.plan import SitePlan, plan
from steer.steering.steers import Steer
from steer.vectors.sites import SITE_KINDS, Part, Site, format_layers
from steer.vectors.vector import Directions


class Writer(NamedTuple):
    """A writer to the stream: the embedding (layer 0), or a layer's attention or MLP."""

    layer: int
    part: Part


@dataclass(frozen=True, slots=True)
class Add:
    """Add `delta`, float32 [d_model], to everything that is written."""

    delta: Directions


@dataclass(frozen=True, slots=True)
class Project:
    """Remove the fraction `share` of the projection on `direction`, a unit vector."""

    direction: Directions
    share: float


Edits = dict[Writer, list[Add | Project]]


def edits_of(steers: Sequence[Steer], hooks: HookMap) -> Edits:
    """The edits of each write, in the order of the hooks.

    Raises:
        VectorError: a steer cannot be baked, or no edit is left.
        SiteError: the model does not have a site.
        ModelError: the hooks do not act on this model's writes.
    """
    check_bakeable(steers)
    for steer in steers:
        if not steer.op.writes:
            for site in steer.sites():
                hooks.place(site)
    plans = plan(steers, lambda: _writes(steers, hooks))
    edits: Edits = {}
    for site in sorted(plans, key=lambda site: site.depth):
        steps = _steps(plans[site])
        if steps:
            part = SITE_KINDS[site.name].writer
            assert part is not None  # by `check_bakeable`
            edits.setdefault(Writer(site.layer, part), []).extend(steps)
    if not edits:
        raise VectorError("nothing is left to bake: the steers cancel, or are 0")
    return edits


def _steps(plan_of_site: SitePlan) -> list[Add | Project]:
    adds: list[Add | Project] = [Add(addition.delta) for addition in plan_of_site.adds.values()]
    return adds + [
        Project(along.direction, -(along.op.linear or 0.0) * along.coefficient)
        for along in plan_of_site.others
    ]


def _writes(steers: Sequence[Steer], hooks: HookMap) -> list[Site]:
    """The result of `write_sites`, if weights can express edits at all of them.

    Raises:
        ModelError: they cannot.
    """
    try:
        sites = write_sites(hooks)
    except SiteError as error:
        raise ModelError(
            f"ablate=writes cannot be baked: {error}",
            hint="`steer apply` can ablate at all layers, with ablate@all",
        ) from None
    if "mlp_out" not in hooks.sites and (len(steers) > 1 or not removes_all(steers[0])):
        # There the hooks ablate the whole stream instead of the MLP's write.
        raise ModelError(
            f"{hooks.architecture} does not show what its MLPs write: beside ablate=writes, whole"
            " and alone, nothing else can be baked",
            hint="bake it alone, with coefficient 1",
        )
    return sites


def describe(edits: Edits, n_tokens: int = 0) -> str:
    """`constants added at layer 2-3; a direction taken out of ...`, for the card."""
    steps = [(writer.layer, step) for writer, own in edits.items() for step in own]
    layers = {layer for layer, step in steps if isinstance(step, Add)}
    parts = [f"constants added at layer {format_layers(layers)}"] if layers else []
    directions = {step.direction.tobytes() for _, step in steps if isinstance(step, Project)}
    if directions:
        text = "a direction" if len(directions) == 1 else f"{len(directions)} directions"
        parts.append(f"{text} taken out of every write to the residual stream")
    if n_tokens:
        text = "a learned token" if n_tokens == 1 else f"{n_tokens} learned tokens"
        parts.append(f"{text} in the vocabulary")
    return "; ".join(parts)
