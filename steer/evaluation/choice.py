"""Which cell of a sweep a rule takes within a budget of what it costs: first by what was scored,
then by texts that are written under it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from steer.base.intervals import Interval, rate
from steer.evaluation.nats import Nats, expected_nats, extra
from steer.evaluation.scoring import UNSTEERED
from steer.evaluation.sweep import Bench, completed
from steer.evaluation.written import Writing, write
from steer.measures.elimination import contenders
from steer.measures.grids import FINER_ROWS, Array, Grid, Place, Plan
from steer.measures.measures import distinct
from steer.measures.selection import Candidate, Rule, refusal_direction, strongest
from steer.steering.steers import Steer

#: Lines of a grid whose texts are looked at: those that do most before that.
LINES = FINER_ROWS


@dataclass(frozen=True, slots=True)
class Budget:
    """What a cell may cost. kl: nats per token on unrelated texts; nats: extra ones of its own
    texts under the unsteered model."""

    kl: float = 0.1
    nats: float = 0.1
    rule: Rule = "budget"


@dataclass(frozen=True, slots=True)
class Tried:
    """A cell whose texts were looked at. distinct: share of different bigrams in a text. refused:
    cells that are out because of their texts."""

    place: Place
    extra_nats: Interval
    distinct: Interval
    samples: tuple[str, ...]
    refused: frozenset[Place] = frozenset()


#: Gives what was found in the texts of a cell.
Look = Callable[[Place], Tried]


def choose(plan: Plan, grid: Grid, budget: Budget, look: Look) -> Tried | None:
    """The cell that the rule takes of those within the budget; of those that cost too much in their
    texts the cheapest that was looked at, and None where all cost too much before. look: as by
    `looking`.

    Raises:
        HookError: a cell was never applied.
    """
    order, (_, costs) = ordered(grid, plan, budget), grid.looks()
    if not order:
        return None
    looked: dict[Place, Tried] = {}

    def noted(place: Place) -> Tried:
        looked[place] = look(place)
        return looked[place]

    found = _first_within(lines_of(plan, order), order, costs, noted, budget.nats)
    if found.extra_nats.value > budget.nats:
        found = min(looked.values(), key=lambda tried: tried.extra_nats.value)
    failed = [one for one, tried in looked.items() if tried.extra_nats.value > budget.nats]
    # Also what costs too much before, which by half of the texts it might not.
    lines = lines_of(plan, list(np.ndindex(costs.shape)))
    refused = (
        place
        for line in lines
        for place in line
        if any(one in line and costs[place] >= costs[one] for one in failed)
    )
    return replace(found, refused=frozenset(refused))


def decide(
    texts: Bench, plan: Plan, grid: Grid, budget: Budget, look: Look
) -> tuple[Grid, Tried | None]:
    """The choice, and the grid with all that may rival it scored on everything.

    Cells left early because of stronger ones. Where those are out for their texts, the rest is held
    against what is left.

    Raises:
        HookError: a cell was never applied.
    """
    while True:
        tried = choose(plan, grid, budget, look)
        if tried is None:
            return grid, None
        left = contenders(grid, budget.kl, tried.refused)
        left[tried.place] = True
        left &= ~grid.whole()
        if not left.any():
            return grid, tried
        grid = completed(texts, plan, grid, left)


def looking(texts: Bench, plan: Plan, writing: Writing) -> Look:
    """What looks at the texts of a cell, of each once."""

    @cache
    def base() -> Nats:
        return expected_nats(texts.model, [one.scored for one in texts.own], UNSTEERED)

    @cache
    def look(place: Place) -> Tried:
        return _tried(texts, plan.steer(*place), place, writing, base())

    return look


def ordered(grid: Grid, plan: Plan, budget: Budget, part: slice | None = None) -> list[Place]:
    """Cells that the rule lets through by what was scored of them, its choice first; or, by a part
    of the items and texts, those that were scored on all of it."""
    if budget.rule == "refusal_direction":
        return _by_refusal_direction(grid, plan, slice(None) if part is None else part)
    whole = (grid.effects(part), grid.costs(part)) if part is not None else None
    effects, costs = whole or grid.looks()
    left = effects.copy()
    chosen: list[Place] = []
    while True:
        best = strongest(left.ravel().tolist(), costs.ravel().tolist(), budget.kl)
        if best is None:
            return chosen
        chosen += places_of(effects, [best])
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


def lines_of(plan: Plan, order: Sequence[Place]) -> list[list[Place]]:
    """Cells that differ in their coefficients alone, in their order; the line of the first one
    first."""
    lines: dict[tuple[str, tuple[int, ...]], list[Place]] = {}
    for place in order:
        row = plan.rows[place[0]]
        lines.setdefault((str(row), row.layers), []).append(place)
    return list(lines.values())


def _first_within(
    lines: Sequence[Sequence[Place]],
    order: Sequence[Place],
    costs: Array,
    look: Look,
    max_nats: float,
) -> Tried:
    """Of the cells that pass in their texts the first one; if none does, the last one looked at.

    Texts at one layer cost more than at another that does as much, so each line has an edge of its
    own. What may do more than what was found has to pass where it does hardly more.
    """
    rank = {place: number for number, place in enumerate(order)}
    best: Tried | None = None
    for line in lines[:LINES]:
        rivals = [one for one in line if best is None or rank[one] < rank[best.place]]
        if not rivals:
            break  # Nor do the lines that follow.
        rivals = _cheaper_and_cheaper(rivals, costs)
        if best is not None and look(rivals[-1]).extra_nats.value > max_nats:
            continue
        tried = _edge(rivals, look, max_nats)
        if tried.extra_nats.value <= max_nats:
            best = tried
    return best or tried


def _cheaper_and_cheaper(ordered: Sequence[Place], costs: Array) -> list[Place]:
    """Of cells in the rule's order those that cost less than all before them."""
    kept: list[Place] = []
    for place in ordered:
        if not kept or costs[place] < costs[kept[-1]]:
            kept.append(place)
    return kept


def _edge(line: Sequence[Place], look: Look, max_nats: float) -> Tried:
    """The first cell of a line that passes, by bisection: texts fall apart by degrees, so what is
    weaker than one that passes passes too. If none does, the last one looked at."""
    tried = look(line[0])
    if tried.extra_nats.value <= max_nats:
        return tried
    passed, low, high = None, 1, len(line)
    while low < high:
        middle = (low + high) // 2
        tried = look(line[middle])
        if tried.extra_nats.value <= max_nats:
            passed, high = tried, middle
        else:
            low = middle + 1
    return passed or tried


def _tried(texts: Bench, steer: Steer, place: Place, writing: Writing, base: Nats) -> Tried:
    written = write(texts.model, writing, [steer], engine=texts.engine)
    own = expected_nats(texts.model, [one.scored for one in written], (steer,))
    pieces = [distinct(one.own) for one in written]
    return Tried(
        place,
        extra(own, base),
        rate([n for n, _ in pieces], [n for _, n in pieces]),
        tuple(texts.model.decode(one.ids) for one in written[:6]),
    )


def places_of(cells: Array, flat: Sequence[int]) -> list[Place]:
    """Row and column of each of some cells that are known by their number."""
    return [divmod(index, cells.shape[1]) for index in flat]
