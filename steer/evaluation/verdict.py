"""Which cell of a sweep to recommend, held against random directions and against itself."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np

from steer.base.intervals import Interval, difference, ratio
from steer.evaluation.choice import (
    LINES,
    Budget,
    Look,
    Tried,
    decide,
    lines_of,
    looking,
    ordered,
    places_of,
)
from steer.evaluation.repeat import HALVES, Repeat, repeat
from steer.evaluation.sweep import Bench, completed
from steer.evaluation.written import Writing
from steer.measures.baselines import N_CHANCE, random_direction, reach_of_chance
from steer.measures.grids import Grid, Place, Plan, Row
from steer.measures.measures import wrong_way
from steer.measures.selection import nearest, pareto

#: Items of which fewer have intervals that say little.
FEWEST_ITEMS = 8


@dataclass(frozen=True)
class Verdict:
    """What came of it. grid: with the choice's rivals scored on everything. place: the cell that is
    recommended, or the nearest one, with `reason` why it is not recommended.

    random: the effect of each random direction there. chance: what they reach at the best layer
    by chance. margin: how much more the cell does than the random ones on the same items.
    again: new texts at the choice. stable: whether both halves of the items lead to the same, the
    second with new texts, and all texts are within the budget; None where nothing was chosen.
    """

    grid: Grid
    place: Place | None
    reason: str | None
    front: tuple[Place, ...]
    tried: Tried | None = None
    random: tuple[float, ...] = ()
    chance: float | None = None
    margin: Interval | None = None
    again: Repeat | None = None
    stable: bool | None = None
    instability: str = ""
    wrong_way: tuple[int, ...] = ()

    @property
    def recommended(self) -> bool:
        return self.place is not None and self.reason is None


def judge(texts: Bench, plan: Plan, grid: Grid, budget: Budget, writing: Writing) -> Verdict:
    """Choose a cell, and find out whether it deserves it.

    Raises:
        HookError: a cell was never applied.
    """
    look = looking(texts, plan, writing)
    grid, tried = decide(texts, plan, grid, budget, look)
    effects, costs = grid.looks()
    front = tuple(places_of(effects, pareto(effects.ravel().tolist(), costs.ravel().tolist())))
    if tried is None:
        near = nearest(effects.ravel().tolist(), costs.ravel().tolist())
        if near is None:
            return Verdict(grid, None, "no cell has an effect above 0", front)
        place = places_of(effects, [near])[0]
        cells = np.zeros(effects.shape, dtype=bool)
        cells[place] = True
        grid = completed(texts, plan, grid, cells)
        reason = f"no cell with an effect has a KL of at most {budget.kl:g}"
        return Verdict(grid, place, reason, front)
    if tried.extra_nats.value > budget.nats:
        reason = f"no cell that was tried has extra nats of at most {budget.nats:g} per token"
        return Verdict(grid, tried.place, reason, front, tried)
    again = repeat(texts, plan, grid, writing, tried.place)
    instability = _instability(again.grid, plan, budget, tried.place, tried.refused, look)
    nats = again.together(tried.extra_nats, writing.samples)
    if nats > budget.nats:
        instability = f"with those by seed {again.seed}, texts have extra nats of {nats:.3f}"
    verdict = _held_against_chance(texts, plan, grid, front, tried)
    return replace(verdict, again=again, stable=not instability, instability=instability)


def _held_against_chance(
    texts: Bench,
    plan: Plan,
    grid: Grid,
    front: tuple[Place, ...],
    tried: Tried,
) -> Verdict:
    """A choice is the best of many places, so chance has as many to be the best of. Coefficients of
    one sign are one place: what a direction does with them goes together."""
    row, column = tried.place
    steer = plan.steer(row, column)
    found, weights = texts.score([(random_direction(steer, seed),) for seed in range(N_CHANCE)])
    random = tuple(float(one) for one in found.sum(1) / weights.sum())
    own = grid.effect[row, column]
    margin = difference((own, weights), (found.mean(0), weights))
    every = {(str(one), one.layers, c.value > 0) for one in plan.rows for c in one.coefficients}
    chance = max(*random, reach_of_chance(random, len(every)))
    effect, reason = ratio(own, weights), None
    if len(own) < FEWEST_ITEMS:
        reason = (
            f"{len(own)} held-out items cannot tell it from chance: give at least {FEWEST_ITEMS}"
        )
    elif margin.low <= 0 or effect.value <= chance:
        reason = (
            "it does not beat random directions of its length, which by chance reach"
            f" {chance:.2f} at the best layer"
        )
    elif effect.low <= 0:
        reason = f"its effect may be none, {effect}: give more items"
    wrong = tuple(wrong_way(own))
    return Verdict(grid, tried.place, reason, front, tried, random, chance, margin, wrong_way=wrong)


def _instability(
    grid: Grid,
    plan: Plan,
    budget: Budget,
    place: Place,
    refused: Container[Place],
    look: Look,
) -> str:
    """How the halves disagree with the choice of all; empty if they do not.

    A half has every second item, and every second unrelated text. What the choice's texts cost is
    told by all of them: what was `refused` for it is out. To what a half prefers the choice may
    have had no reason to `look`; it is out too if the cheapest of its line fails.
    """
    whole, costs = grid.effect_at(*place), grid.costs()
    chosen = plan.rows[place[0]]
    for half in HALVES:
        # They choose among what costs no more than the choice: how much a half of the texts drifts
        # is not what is asked.
        within = replace(budget, kl=float(grid.costs(half)[place]))
        order = [one for one in ordered(grid, plan, within, half) if one not in refused]
        if not order:
            return "half of the items leads to no choice at all"
        ahead = list(takewhile(lambda one: not _neighbours(plan, chosen, plan.rows[one[0]]), order))
        for line in lines_of(plan, ahead)[:LINES]:
            cheapest = min(line, key=lambda one: float(costs[one]))
            if look(cheapest).extra_nats.value <= budget.nats:
                return f"half of the items leads to {plan.labels()[cheapest[0]]}"
        if len(ahead) == len(order):
            return "half of the items leads to no choice at all"
        effect = float(grid.effects(half)[order[len(ahead)]])
        if not whole.low <= effect <= whole.high:
            return f"half of the items gives an effect of {effect:.2f}"
    return ""


def _neighbours(plan: Plan, one: Row, other: Row) -> bool:
    """Whether two rows sweep the same, at the same layers or at the next ones."""
    layers = sorted({row.layers for row in plan.rows if str(row) == str(one)})
    return str(one) == str(other) and abs(layers.index(one.layers) - layers.index(other.layers)) < 2
