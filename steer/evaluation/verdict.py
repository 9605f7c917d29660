"""Which cell of a sweep to recommend, held against random directions and against itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from steer.evaluation.nats import expected_nats, extra
from steer.evaluation.repeat import HALVES, Repeat, repeat
from steer.evaluation.scoring import UNSTEERED
from steer.evaluation.sweep import Bench
from steer.evaluation.written import Writing, write
from steer.intervals import Interval, difference, ratio
from steer.measures.baselines import N_RANDOM, random_direction
from steer.measures.grids import Array, Grid, Place, Plan, Row
from steer.measures.measures import distinct, wrong_way
from steer.measures.selection import Candidate, Rule, nearest, pareto, refusal_direction, strongest


@dataclass(frozen=True, slots=True)
class Budget:
    """What a cell may cost. kl: nats per token on unrelated texts; nats: extra ones of its own
    texts under the unsteered model."""

    kl: float = 0.1
    nats: float = 0.1
    rule: Rule = "budget"


@dataclass(frozen=True, slots=True)
class Tried:
    """A cell whose texts were looked at. distinct: share of different bigrams in a text."""

    place: Place
    extra_nats: Interval
    distinct: Interval
    samples: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """What came of it. place: the cell that is recommended, or the nearest one, with `reason`
    why it is not recommended.

    random: the effect of each random direction there. margin: how much more the cell does than
    these on the same items. again: new texts at the choice. stable: whether both halves of the
    items lead to the same, the second with new texts.
    """

    place: Place | None
    reason: str | None
    front: tuple[Place, ...]
    tried: Tried | None = None
    random: tuple[float, ...] = ()
    margin: Interval | None = None
    again: Repeat | None = None
    stable: bool = True
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
    effects, costs = grid.effects(), grid.costs()
    front = tuple(_places(effects, pareto(effects.ravel().tolist(), costs.ravel().tolist())))
    tried = choose(texts, plan, grid, budget, writing)
    if tried is None:
        near = nearest(effects.ravel().tolist(), costs.ravel().tolist())
        if near is None:
            return Verdict(None, "no cell has an effect above 0", front)
        place = _places(effects, [near])[0]
        return Verdict(place, f"no cell with an effect has a KL of at most {budget.kl:g}", front)
    if tried.extra_nats.value > budget.nats:
        reason = f"no cell that was tried has extra nats of at most {budget.nats:g} per token"
        return Verdict(tried.place, reason, front, tried)
    again = repeat(texts, plan, grid, writing, tried.place)
    return _held_against_chance(texts, plan, grid, budget, front, tried, again)


def choose(texts: Bench, plan: Plan, grid: Grid, budget: Budget, writing: Writing) -> Tried | None:
    """The cell that the rule takes of those within the budget; of those that cost too much in their
    texts the cheapest one, and None where all cost too much before.

    Raises:
        HookError: a cell was never applied.
    """
    ordered = _ordered(grid, plan, budget)
    if not ordered:
        return None
    places = _cheaper_and_cheaper(ordered, grid.costs())
    return _strongest_within(texts, plan, places, budget, writing)


def _held_against_chance(
    texts: Bench,
    plan: Plan,
    grid: Grid,
    budget: Budget,
    front: tuple[Place, ...],
    tried: Tried,
    again: Repeat,
) -> Verdict:
    row, column = tried.place
    steer = plan.steer(row, column)
    found, weights = texts.score([(random_direction(steer, seed),) for seed in range(N_RANDOM)])
    random = tuple(float(one) for one in found.sum(1) / weights.sum())
    own = grid.effect[row, column]
    margin = difference((own, weights), (found.mean(0), weights))
    reason = None
    if margin.low <= 0 or ratio(own, weights).value <= max(random):
        reason = "it does not beat random directions of its length"
    instability = _instability(again.grid, plan, budget, tried.place)
    if again.extra_nats.low > budget.nats:
        instability = f"texts by seed {again.seed} have extra nats of {again.extra_nats}"
    return Verdict(
        tried.place,
        reason,
        front,
        tried,
        random,
        margin,
        again,
        not instability,
        instability,
        tuple(wrong_way(own)),
    )


def _ordered(grid: Grid, plan: Plan, budget: Budget, part: slice = slice(None)) -> list[Place]:
    """Cells that the rule lets through by all items and texts or some, its choice first."""
    effects, costs = grid.effects(part), grid.costs(part)
    if budget.rule == "refusal_direction":
        return _by_refusal_direction(grid, plan, part)
    left = effects.copy()
    chosen: list[Place] = []
    while True:
        best = strongest(left.ravel().tolist(), costs.ravel().tolist(), budget.kl)
        if best is None:
            return chosen
        chosen += _places(effects, [best])
        left[chosen[-1]] = -np.inf


def _by_refusal_direction(grid: Grid, plan: Plan, part: slice) -> list[Place]:
    """The rule with each coefficient for what adds, and its negative for what takes out."""
    costs, levels = grid.costs(part), grid.levels(part)
    places, candidates = [], []
    for row, one in enumerate(plan.rows):
        columns = {(c.value, c.unit): index for index, c in enumerate(one.coefficients)}
        for (value, unit), column in columns.items():
            away = columns.get((-value, unit))
            if value > 0 and away is not None:
                places.append((row, column))
                level, cost = levels[row], float(costs[row, away])
                candidates.append(
                    Candidate(one.layers[-1], float(level[away]), float(level[column]), cost)
                )
    n_layers = plan.rows[0].vector.metadata.model.n_layers
    return [places[index] for index in refusal_direction(candidates, n_layers)]


def _cheaper_and_cheaper(ordered: Sequence[Place], costs: Array) -> list[Place]:
    """Of cells in the rule's order those that cost less than all before them."""
    kept: list[Place] = []
    for place in ordered:
        if not kept or costs[place] < costs[kept[-1]]:
            kept.append(place)
    return kept


def _strongest_within(
    texts: Bench, plan: Plan, places: Sequence[Place], budget: Budget, writing: Writing
) -> Tried:
    """The first cell whose texts are within the budget of nats, by bisection: texts fall apart by
    degrees, so what is weaker than one that passes passes too. If none is, the last one tried.
    """
    tried = _tried(texts, plan, places[0], writing)
    if tried.extra_nats.value <= budget.nats:
        return tried
    passed, low, high = None, 1, len(places)
    while low < high:
        middle = (low + high) // 2
        tried = _tried(texts, plan, places[middle], writing)
        if tried.extra_nats.value <= budget.nats:
            passed, high = tried, middle
        else:
            low = middle + 1
    return passed or tried


def _tried(texts: Bench, plan: Plan, place: Place, writing: Writing) -> Tried:
    steer = plan.steer(*place)
    written = write(texts.model, writing, [steer], engine=texts.engine)
    own = expected_nats(texts.model, [one.scored for one in written], (steer,))
    base = expected_nats(texts.model, [one.scored for one in texts.own], UNSTEERED)
    pieces = [distinct(one.own) for one in written]
    return Tried(
        place,
        extra(own, base),
        ratio([n for n, _ in pieces], [n for _, n in pieces]),
        tuple(texts.model.decode(one.ids) for one in written[:6]),
    )


def _instability(grid: Grid, plan: Plan, budget: Budget, place: Place) -> str:
    """How the halves disagree with the choice of all; empty if they do not.

    A half has every second item, and every second unrelated text.
    """
    whole = grid.effect_at(*place)
    chosen = plan.rows[place[0]]
    for half in HALVES:
        # They choose among what costs no more than the choice: the rest failed in its texts.
        within = replace(budget, kl=float(grid.costs(half)[place]))
        ordered = _ordered(grid, plan, within, half)
        if not ordered:
            return "half of the items leads to no choice at all"
        row, _ = ordered[0]
        if not _neighbours(plan, chosen, plan.rows[row]):
            return f"half of the items leads to {plan.labels()[row]}"
        effect = float(grid.effects(half)[ordered[0]])
        if not whole.low <= effect <= whole.high:
            return f"half of the items gives an effect of {effect:.2f}"
    return ""


def _neighbours(plan: Plan, one: Row, other: Row) -> bool:
    """Whether two rows sweep the same, at the same layers or at the next ones."""
    layers = sorted({row.layers for row in plan.rows if str(row) == str(one)})
    return str(one) == str(other) and abs(layers.index(one.layers) - layers.index(other.layers)) < 2


def _places(shape: np.ndarray, flat: list[int]) -> list[Place]:
    return [(index // shape.shape[1], index % shape.shape[1]) for index in flat]
