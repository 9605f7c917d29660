"""The writing half of the hook layer: steers become hooks that edit activations as they pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor

from steer.base.errors import SiteError, VectorError
from steer.hooks import ops
from steer.hooks.acting import Lookout, changed, is_behind_attention
from steer.hooks.clock import TokenClock
from steer.hooks.gates import prompt_readers, token_gates
from steer.hooks.hooks import Constants, SiteFunction, before_input, placed
from steer.models.hookmap import HookMap
from steer.models.model import Model
from steer.steering.plan import Addition, Along, SitePlan, plan
from steer.steering.steers import ALWAYS, Steer
from steer.vectors.sites import Site

#: Of float32, in which models take their norms.
_LARGEST = float(np.finfo(np.float32).max)
Weigher = Callable[[Tensor], ops.Weight]
#: Activations as they are to be; the very same tensor where nothing acts.
Edit = Callable[[Tensor], Tensor]
#: The same of what was edited so far, and what came in.
Addend = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def injected(
    model: Model,
    steers: Sequence[Steer],
    clock: TokenClock,
    afterwards: Mapping[Site, SiteFunction] | None = None,
) -> Iterator[None]:
    """Steer every forward of the block. All `steers` act; `steer.steering.plan` says how they meet.

    At one site, gates read what arrives; then it is edited; then what is in
    `afterwards` gets what leaves.

    Raises:
        SiteError: the model has no such layer or site.
        HookError: the block ended well, yet a steer was never applied.
    """
    functions = staged([site_functions(model, steers, clock), afterwards or {}])
    # Where all act everywhere, nobody asks the clock, and it need not be wound at every token.
    timed = afterwards or any(steer.when != ALWAYS for steer in steers)
    with placed(model, functions), _ticking(model, clock) if timed else nullcontext():
        yield


def site_functions(
    model: Model, steers: Sequence[Steer], clock: TokenClock
) -> dict[Site, SiteFunction]:
    """What becomes of each site's activations, by the positions that `clock` knows.

    Raises:
        SiteError: a write to the residual stream that the model does not show.
        VectorError: numbers so large that the norms behind them overflow.
    """
    clock.special = model.special_ids
    plans = plan(steers, lambda: write_sites(model.hooks))
    check_size(plans, model.network.dtype)
    edits = {
        site: _edit(made, clock, only_writing=is_behind_attention(site, model.n_layers))
        for site, made in plans.items()
    }
    return staged([prompt_readers(steers, clock), token_gates(steers, clock), edits])


def check_size(plans: Mapping[Site, SitePlan], dtype: torch.dtype) -> None:
    """Refuse edits after which activations, or the squares that norms take of them in float32,
    are no numbers any more.

    Raises:
        VectorError: naming the site.
    """
    largest = torch.finfo(dtype).max
    for site, made in plans.items():
        additions = [*made.adds.values(), *made.kept.values()]
        levels = [abs(one.level) for one in made.others if one.op != "rotate"]
        lengths = [float(np.linalg.norm(one.delta.astype(np.float64))) for one in additions]
        peaks = [float(np.abs(one.delta).max()) for one in additions]
        squared = max([0.0, *lengths, *levels]) ** 2
        if squared > _LARGEST or max([0.0, *peaks, *levels]) > largest:
            raise VectorError(
                f"what is asked for at {site} is too large: activations overflow",
                hint="use a smaller coefficient",
            )


@contextmanager
def _ticking(model: Model, clock: TokenClock) -> Iterator[None]:
    remove = before_input(model.network, clock.tick)
    try:
        yield
    finally:
        remove()


def write_sites(hooks: HookMap) -> list[Site]:
    """Every write to the residual stream: the embedding, and each layer's attn_out and mlp_out.

    Where a family does not show its mlp_out, resid_post stands for it: what was written before
    has nothing along an ablated vector, so to ablate the sum is to ablate the last write. Arditi
    et al. 2024 (arXiv 2406.11717, section 2.4).

    Raises:
        SiteError: a layer without an attn_out.
    """
    has_mlp = "mlp_out" in hooks.sites
    sites = [Site(0, "resid_pre")]
    for layer in range(hooks.n_layers):
        if Site(layer, "attn_out") not in hooks.places:
            raise SiteError(
                f"{hooks.architecture} does not show all that layer {layer} writes: no attn_out",
                hint="ablate at all layers instead, with ablate@all",
            )
        sites += [Site(layer, "attn_out"), Site(layer, "mlp_out" if has_mlp else "resid_post")]
    return sites


def staged(stages: Sequence[Mapping[Site, SiteFunction]]) -> dict[Site, SiteFunction]:
    """At each site the functions of all stages, each of which gets what the one before left."""
    sites = sorted({site for stage in stages for site in stage})
    return {site: _in_turn([stage[site] for stage in stages if site in stage]) for site in sites}


def by_rows(
    cells: Sequence[Mapping[Site, SiteFunction]], sizes: Sequence[int]
) -> dict[Site, SiteFunction]:
    """Functions that give neighbouring rows, `sizes` of them, each to its own cell's function."""

    def function(site: Site) -> SiteFunction:
        own = [cell.get(site) for cell in cells]

        def edit(resid: Tensor) -> Tensor:
            parts = []
            for one, rows in zip(own, torch.split(resid, list(sizes)), strict=True):
                edited = rows if one is None else one(rows)
                parts.append(rows if edited is None else edited)
            return torch.cat(parts)

        return edit

    return {site: function(site) for cell in cells for site in cell}


def _in_turn(functions: Sequence[SiteFunction]) -> SiteFunction:
    """One function that gives each what the one before left."""
    if len(functions) == 1:
        return functions[0]

    def run(resid: Tensor) -> Tensor | None:
        passed = resid
        for function in functions:
            edited = function(passed)
            passed = passed if edited is None else edited
        return None if passed is resid else passed

    return run


def _edit(made: SitePlan, clock: TokenClock, *, only_writing: bool) -> SiteFunction:
    """What becomes of the activations of a site. only_writing: it lies behind the last attention.

    Each part compares what it got with what it gave (`steer.hooks.acting`) until every row is known
    to have been changed by it.
    """

    def lookout(*steers: Steer) -> Lookout:
        return Lookout(clock, steers, only_writing=only_writing)

    constant = made.adds.get(ALWAYS)
    n_edits = len(made.adds) + len(made.kept) + len(made.others)
    if constant is not None and constant.down is None and n_edits == 1:
        return _constant(constant, lookout(*constant.steers))
    adds, kept = (
        [
            (_addition(addition, clock.weigher(when)), lookout(*addition.steers))
            for when, addition in group.items()
        ]
        for group in (made.adds, made.kept)
    )
    moves = [(_move(one, clock.weigher(one.when)), lookout(one.steer)) for one in made.others]
    if len(moves) == n_edits == 1:
        return _cast(*moves[0])
    if len(adds) == n_edits == 1:
        [(add, look)] = adds
        return _cast(lambda h: add(h, h), look)

    def edit(h: Tensor) -> Tensor:
        edited = h
        # All adds act on what came in, so that their order does not show.
        for add, look in adds:
            edited = _compared(edited, add(edited, h), look, h.dtype)
        if kept:
            edited = _kept(edited, kept, h.dtype)
        for move, look in moves:
            edited = _compared(edited, move(edited), look, h.dtype)
        return edited

    return _cast(edit)


def _compared(before: Tensor, after: Tensor, look: Lookout, dtype: torch.dtype) -> Tensor:
    """`after`, once its difference from `before` is noted, if it is still to be looked for."""
    if look.is_needed and after is not before:
        look.compare(before, after, dtype)
    return after


def _kept(h: Tensor, adds: Sequence[tuple[Addend, Lookout]], dtype: torch.dtype) -> Tensor:
    """Additions after which each activation is as long as before. What an addition does has to
    outlast that: along the activation itself it does nothing."""
    edited, found = h, []
    for add, look in adds:
        before, edited = edited, add(edited, h)
        if look.is_needed and edited is not before:
            found.append((look, changed(before, edited, dtype)))
    if edited is h:
        return h
    edited = ops.keeping_norm(h, edited)
    if found:
        together = changed(h, edited, dtype)
        for look, own in found:
            look.look(own & together)
    return edited


def _cast(edit: Edit, look: Lookout | None = None) -> SiteFunction:
    """`edit`, which computes in float32, for activations of any type. look: of its one part."""

    def function(resid: Tensor) -> Tensor | None:
        edited = edit(resid)
        if edited is resid:
            return None
        if edited.dtype is not resid.dtype:
            edited = edited.to(resid.dtype)
        if look is not None and look.is_needed:
            look.compare(resid, edited, resid.dtype)
        return edited

    return function


def _constant(addition: Addition, look: Lookout) -> SiteFunction:
    """The most common edit, a vector everywhere, with nothing around it that takes time."""
    beside = Constants([addition.delta]).beside
    delta: Tensor | None = None

    def add(resid: Tensor) -> Tensor:
        nonlocal delta
        if delta is None:  # a layer stays where it is while it runs
            (delta,) = beside(resid)
        edited = resid + delta  # `ops.add`
        if edited.dtype is not resid.dtype:
            edited = edited.to(resid.dtype)
        if look.is_needed:
            look.compare(resid, edited, resid.dtype)
        return edited

    return add


def _addition(addition: Addition, weigh: Weigher) -> Addend:
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


def _move(along: Along, weigh: Weigher) -> Edit:
    """An op along a direction with its weight."""
    beside = Constants([along.direction]).beside
    op, level, coefficient = ops.ALONG[along.op], along.level, along.coefficient

    def move(h: Tensor) -> Tensor:
        weight = weigh(h)
        if isinstance(weight, float) and weight == 0.0:
            return h
        (direction,) = beside(h)
        return op(h, direction, level, coefficient * weight)

    return move
