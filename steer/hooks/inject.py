"""Apply steers: hooks that edit activations during a forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import numpy as np
import torch
from torch import Tensor

from steer.base.errors import ModelError, SiteError, VectorError
from steer.hooks import ops
from steer.hooks.acting import ChangeDetector, changed, is_behind_attention
from steer.hooks.clock import TokenClock
from steer.hooks.gates import prompt_readers, token_gates
from steer.hooks.hooks import Constants, SiteFunction, before_input, placed
from steer.hooks.thoughts import ThoughtTrackers
from steer.models.hookmap import HookMap
from steer.models.model import Model
from steer.steering.plan import Addition, ProjectionEdit, SitePlan, plan
from steer.steering.scope import CONSTANT
from steer.steering.steers import ALWAYS, Steer
from steer.steering.tokens import FIRST_ID
from steer.vectors.sites import Site

#: The largest float32, in which models compute norms.
_LARGEST = float(np.finfo(np.float32).max)
TimingWeights = Callable[[Tensor], ops.Weight]
#: Gives the edited activations, or the same tensor object if nothing acts.
Edit = Callable[[Tensor], Tensor]
#: The same, from the activations edited so far and the original ones.
Addend = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def injected(
    model: Model,
    steers: Sequence[Steer],
    clock: TokenClock,
    afterwards: Mapping[Site, SiteFunction] | None = None,
) -> Iterator[None]:
    """Steer every forward of the block. `steer.steering.plan` combines the steers.

    At each site, gates read first; then the edits are applied; then the function in `afterwards`
    gets the result.

    Raises:
        SiteError: the model has no such layer or site.
        HookError: the block ended without an exception, but a steer was never applied.
    """
    functions = composed([site_functions(model, steers, clock), afterwards or {}])
    # If all steers act everywhere, the clock is not needed and does not have to tick.
    timed = afterwards or any(steer.timing != ALWAYS for steer in steers)
    with placed(model, functions), _clock_ticks(model, clock) if timed else nullcontext():
        yield


def site_functions(
    model: Model, steers: Sequence[Steer], clock: TokenClock
) -> dict[Site, SiteFunction]:
    """The function that edits each site's activations, by the positions of `clock`.

    Raises:
        SiteError: the model does not expose a write to the residual stream.
        ModelError: a steer has a scope by thoughts, and the model has no tags of thoughts.
        VectorError: an edit is so large that norms overflow.
    """
    clock.special = model.special_ids
    if any(steer.scope.by_thoughts for steer in steers):
        check_thoughts(model, steers)
        assert model.thoughts is not None
        clock.trackers = ThoughtTrackers(model.thoughts, partial(_token_names, model))
    check_writes(steers, model.hooks)
    plans = plan(steers, lambda: write_sites(model.hooks))
    check_size(plans, model.network.dtype)
    edits = {
        site: _edit(site_plan, clock, only_writing=is_behind_attention(site, model.n_layers))
        for site, site_plan in plans.items()
    }
    return composed([prompt_readers(steers, clock), token_gates(steers, clock), edits])


def _token_names(model: Model, ids: Sequence[int]) -> list[str]:
    """Tokens as the tokenizer shows them; learned ones are empty."""
    known = [id_ if id_ < FIRST_ID else 0 for id_ in ids]
    names = model.tokenizer.convert_ids_to_tokens(known)
    return [
        str(name) if name is not None and id_ < FIRST_ID else ""
        for name, id_ in zip(names, ids, strict=True)
    ]


def check_thoughts(model: Model, steers: Sequence[Steer]) -> None:
    """Refuse scopes by thoughts on a model that has none.

    Raises:
        ModelError: naming the steer.
    """
    for steer in steers:
        if steer.scope.by_thoughts and model.thoughts is None:
            raise ModelError(
                f"the chat template of {model.identity.id} has no tags of thoughts, so {steer} has"
                " no place",
                hint="use the scope response",
            )


def check_size(plans: Mapping[Site, SitePlan], dtype: torch.dtype) -> None:
    """Refuse edits that make activations, or their squared norms in float32, overflow.

    Raises:
        VectorError: naming the site.
    """
    largest = torch.finfo(dtype).max
    for site, site_plan in plans.items():
        additions = [*site_plan.adds.values(), *site_plan.kept.values()]
        levels = [
            abs(along.level)
            for along in site_plan.others
            if along.op.value is not None and along.op.value.sides
        ]
        deltas = [addition.delta for addition in additions]
        lengths = [float(np.linalg.norm(delta.astype(np.float64))) for delta in deltas]
        peaks = [float(np.abs(delta).max()) for delta in deltas]
        squared = max([0.0, *lengths, *levels]) ** 2
        if squared > _LARGEST or max([0.0, *peaks, *levels]) > largest:
            raise VectorError(
                f"the edit at {site} is too large: activations overflow",
                hint="use a smaller coefficient",
            )


@contextmanager
def _clock_ticks(model: Model, clock: TokenClock) -> Iterator[None]:
    remove = before_input(model.network, clock.tick)
    try:
        yield
    finally:
        remove()


def write_sites(hooks: HookMap) -> list[Site]:
    """Every write to the residual stream: the embedding, and each layer's attn_out and mlp_out.

    If a family does not expose its mlp_out, resid_post takes its place: earlier writes have no
    component along an ablated vector, so ablating the sum ablates the last write. Arditi et al.
    2024 (arXiv 2406.11717, section 2.4).

    Raises:
        SiteError: a layer has no attn_out.
    """
    has_mlp = "mlp_out" in hooks.sites
    sites = [Site(0, "resid_pre")]
    for layer in range(hooks.n_layers):
        if Site(layer, "attn_out") not in hooks.places:
            raise SiteError(
                f"{hooks.architecture} does not expose all writes of layer {layer}: no attn_out",
                hint="ablate at all layers instead, with ablate@all",
            )
        sites += [Site(layer, "attn_out"), Site(layer, "mlp_out" if has_mlp else "resid_post")]
    return sites


def check_writes(steers: Sequence[Steer], hooks: HookMap) -> None:
    """Refuse ops other than a whole ablation at every write, if `resid_post` stands for the MLP's
    write: such an op would act on all earlier writes again.

    Raises:
        SiteError: naming the steer.
    """
    for steer in steers:
        if steer.op.writes and "mlp_out" not in hooks.sites and not removes_all(steer):
            raise SiteError(
                f"{hooks.architecture} does not expose what its MLPs write, so {steer} cannot act"
                " at every write",
                hint=f"ablate=writes with coefficient 1 can; or use {steer.op.name}@all, which acts"
                " at all layers",
            )


def removes_all(steer: Steer) -> bool:
    """Whether a linear op leaves nothing along its vector wherever it acts."""
    linear = steer.op.op.linear
    removes_all = linear is not None and linear * steer.coefficient.value == -1
    return removes_all and steer.schedule == CONSTANT


def composed(stages: Sequence[Mapping[Site, SiteFunction]]) -> dict[Site, SiteFunction]:
    """At each site, the composition of the functions of all stages, in order."""
    sites = sorted({site for stage in stages for site in stage})
    return {site: _in_turn([stage[site] for stage in stages if site in stage]) for site in sites}


def by_rows(
    cells: Sequence[Mapping[Site, SiteFunction]], sizes: Sequence[int]
) -> dict[Site, SiteFunction]:
    """One function for each site, which applies each cell's function to the cell's own rows: the
    first `sizes[0]` rows belong to the first cell, and so on."""

    def function(site: Site) -> SiteFunction:
        own = [cell.get(site) for cell in cells]

        def edit(resid: Tensor) -> Tensor:
            parts = []
            for edit, rows in zip(own, torch.split(resid, list(sizes)), strict=True):
                edited = rows if edit is None else edit(rows)
                parts.append(rows if edited is None else edited)
            return torch.cat(parts)

        return edit

    return {site: function(site) for cell in cells for site in cell}


def _in_turn(functions: Sequence[SiteFunction]) -> SiteFunction:
    """The composition of functions, the first one first."""
    if len(functions) == 1:
        return functions[0]

    def run(resid: Tensor) -> Tensor | None:
        passed = resid
        for function in functions:
            edited = function(passed)
            passed = passed if edited is None else edited
        return None if passed is resid else passed

    return run


def _edit(site_plan: SitePlan, clock: TokenClock, *, only_writing: bool) -> SiteFunction:
    """The function that edits the activations of a site. only_writing: it is above the last
    attention.

    Each part compares its input and output (`steer.hooks.acting`) until it has changed every row.
    """

    def watch(*steers: Steer) -> ChangeDetector:
        return ChangeDetector(clock, steers, only_writing=only_writing)

    constant = site_plan.adds.get(ALWAYS)
    n_edits = len(site_plan.adds) + len(site_plan.kept) + len(site_plan.others)
    if constant is not None and constant.down is None and n_edits == 1:
        return _constant(constant, watch(*constant.steers))
    adds, kept = (
        [
            (_addition(addition, clock.weigher(timing)), watch(*addition.steers))
            for timing, addition in group.items()
        ]
        for group in (site_plan.adds, site_plan.kept)
    )
    projections = [
        (_projection_edit(along, clock.weigher(along.timing)), watch(along.steer))
        for along in site_plan.others
    ]
    if len(projections) == n_edits == 1:
        return _cast(*projections[0])
    if len(adds) == n_edits == 1:
        [(add, detector)] = adds
        return _cast(lambda h: add(h, h), detector)

    def edit(h: Tensor) -> Tensor:
        edited = h
        # All additions use the original activations, so that their order does not matter.
        for add, detector in adds:
            edited = _compared(edited, add(edited, h), detector, h.dtype)
        if kept:
            edited = _kept(edited, kept, h.dtype)
        for edit_projection, detector in projections:
            edited = _compared(edited, edit_projection(edited), detector, h.dtype)
        return edited

    return _cast(edit)


def _compared(
    before: Tensor, after: Tensor, detector: ChangeDetector, dtype: torch.dtype
) -> Tensor:
    """`after`; records its difference from `before` if that is still needed."""
    if detector.is_needed and after is not before:
        detector.compare(before, after, dtype)
    return after


def _kept(h: Tensor, adds: Sequence[tuple[Addend, ChangeDetector]], dtype: torch.dtype) -> Tensor:
    """Additions that keep the length of each activation. Only changes that remain after rescaling
    count: an addition along the activation itself does nothing."""
    edited, changes = h, []
    for add, detector in adds:
        before, edited = edited, add(edited, h)
        if detector.is_needed and edited is not before:
            changes.append((detector, changed(before, edited, dtype)))
    if edited is h:
        return h
    edited = ops.keeping_norm(h, edited)
    if changes:
        together = changed(h, edited, dtype)
        for detector, own in changes:
            detector.record(own & together)
    return edited


def _cast(edit: Edit, detector: ChangeDetector | None = None) -> SiteFunction:
    """`edit`, which computes in float32, for activations of any dtype. detector: of an edit that
    has a single part."""

    def function(resid: Tensor) -> Tensor | None:
        edited = edit(resid)
        if edited is resid:
            return None
        if edited.dtype is not resid.dtype:
            edited = edited.to(resid.dtype)
        if detector is not None and detector.is_needed:
            detector.compare(resid, edited, resid.dtype)
        return edited

    return function


def _constant(addition: Addition, detector: ChangeDetector) -> SiteFunction:
    """The most common edit, a vector added everywhere, without any overhead."""
    beside = Constants([addition.delta]).beside
    delta: Tensor | None = None

    def add(resid: Tensor) -> Tensor:
        nonlocal delta
        if delta is None:  # a layer does not change its device during a run
            (delta,) = beside(resid)
        edited = resid + delta  # `ops.add`
        if edited.dtype is not resid.dtype:
            edited = edited.to(resid.dtype)
        if detector.is_needed:
            detector.compare(resid, edited, resid.dtype)
        return edited

    return add


def _addition(addition: Addition, weigh: TimingWeights) -> Addend:
    """An addition with its weight."""
    parts = (addition.delta, addition.down, addition.up)
    beside = Constants([part for part in parts if part is not None]).beside

    def add(edited: Tensor, h: Tensor) -> Tensor:
        weight = weigh(h)
        if isinstance(weight, float) and weight == 0.0:
            return edited
        delta, *factors = beside(h)
        if factors:
            delta = delta + ops.low_rank(h, *factors)
        return ops.add(edited, delta, weight)

    return add


def _projection_edit(along: ProjectionEdit, weigh: TimingWeights) -> Edit:
    """An op along a direction with its weight."""
    beside = Constants([along.direction]).beside
    apply, level, coefficient = along.op.edit, along.level, along.coefficient

    def edit(h: Tensor) -> Tensor:
        weight = weigh(h)
        if isinstance(weight, float) and weight == 0.0:
            return h
        (direction,) = beside(h)
        return apply(h, direction, level, coefficient * weight)

    return edit
