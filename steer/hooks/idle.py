"""Check before a run that each steer can act, and afterwards that it did."""

from __future__ import annotations

from collections.abc import Sequence

from steer.base.errors import IdleError
from steer.hooks.acting import reached
from steer.hooks.inject import write_sites
from steer.models.model import Model
from steer.steering.plan import plan
from steer.steering.steers import Steer

_HINT = (
    "change its scope, its schedule or the length of the texts; --allow-idle runs it all the same"
)


def check_can_act(
    model: Model, steers: Sequence[Steer], prompts: Sequence[Sequence[int]], max_tokens: int
) -> None:
    """Refuse a steer that cannot change any of the texts. Steers with coefficient 0 are ignored.
    prompts: token ids.

    Raises:
        IdleError: a steer's scope and schedule cover no position of texts of these lengths, or it
            adds 0, by itself or together with the others.
    """
    active = [steer for steer in steers if steer.coefficient.value and not steer.is_token]
    if not active:
        return
    effective = effective_steers(model, active)
    special = model.special_ids
    for steer in active:
        if steer not in effective:
            raise IdleError(
                f"{steer} would change nothing: it adds 0",
                hint="use a larger coefficient; --allow-idle runs it all the same",
            )
        for ids in prompts:
            flags = (
                [token in special for token in ids]
                if steer.scope.skip_special
                else [False] * len(ids)
            )
            if reached(steer, flags, max_tokens, model.n_layers):
                break
        else:
            raise IdleError(
                f"{steer} would act nowhere: {_lengths(prompts, max_tokens)}", hint=_HINT
            )


def effective_steers(model: Model, steers: Sequence[Steer]) -> set[Steer]:
    """The steers with an effect at some site. Two that cancel each other have none."""
    plans = plan(steers, lambda: write_sites(model.hooks)).values()
    added = {
        steer
        for site_plan in plans
        for addition in (*site_plan.adds.values(), *site_plan.kept.values())
        for steer in addition.steers
    }
    return added | {along.steer for site_plan in plans for along in site_plan.others}


def check_acted(idle: Sequence[Sequence[str]]) -> None:
    """Raise if a steer was idle in every text. idle: the idle steers of each text.

    Raises:
        IdleError: naming the steer.
    """
    if not idle:
        return
    for steer in idle[0]:
        if all(steer in others for others in idle):
            raise IdleError(f"{steer} changed nothing{_in_texts(len(idle))}", hint=_HINT)


def _lengths(prompts: Sequence[Sequence[int]], max_tokens: int) -> str:
    lengths = sorted({len(ids) for ids in prompts})
    n = f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
    return f"prompts have {n} tokens here, and at most {max_tokens:,} are generated"


def _in_texts(n: int) -> str:
    return " in the text" if n == 1 else f" in any of the {n:,} texts"
