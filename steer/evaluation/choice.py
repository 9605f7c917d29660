"""Which cell of a sweep a rule takes within a budget of what it costs: first by what was scored,
then by texts that are written under it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from steer.base.intervals import Interval, rate
from steer.evaluation.bench import Bench, completed
from steer.evaluation.cells import UNSTEERED, Steered
from steer.evaluation.scoring import Nats, expected_nats, extra
from steer.evaluation.written import Writing, write
from steer.measures.elimination import contenders
from steer.measures.formulas import distinct
from steer.measures.grids import FINER_ROWS, Array, Grid, Position, Scores
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

    position: Position
    extra_nats: Interval
    distinct: Interval
    samples: tuple[str, ...]
    refused: frozenset[Position] = frozenset()


#: Gives what was found in the texts of a cell.
Look = Callable[[Position], Tried]


def choose(grid: Grid, scores: Scores, budget: Budget, look: Look) -> Tried | None:
    """The cell that the rule takes of those within the budget; of those that cost too much in their
    texts the cheapest that was looked at, and None where all cost too much before. look: as by
    `looking`.

    Raises:
        HookError: a cell was never applied.
    """
    order, (_, costs) = ordered(scores, grid, budget), scores.looks()
    if not order:
        return None
    looked: dict[Position, Tried] = {}

    def noted(position: Position) -> Tried:
        looked[position] = look(position)
        return looked[position]

    found = _first_within(lines_of(grid, order), order, costs, noted, budget.nats)
    if found.extra_nats.value > budget.nats:
        found = min(looked.values(), key=lambda tried: tried.extra_nats.value)
    failed = [one for one, tried in looked.items() if tried.extra_nats.value > budget.nats]
    # Also what costs too much before, which by half of the texts it might not.
    lines = lines_of(grid, list(np.ndindex(costs.shape)))
    refused = (
        position
        for line in lines
        for position in line
        if any(one in line and costs[position] >= costs[one] for one in failed)
    )
    return replace(found, refused=frozenset(refused))


def decide(
    texts: Bench, grid: Grid, scores: Scores, budget: Budget, look: Look
) -> tuple[Scores, Tried | None]:
    """The choice, and the scores with all that may rival it scored on everything.

    Cells left early because of stronger ones. Where those are out for their texts, the rest is held
    against what is left.

    Raises:
        HookError: a cell was never applied.
    """
    while True:
        tried = choose(grid, scores, budget, look)
        if tried is None:
            return scores, None
        left = contenders(scores, budget.kl, tried.refused)
        left[tried.position] = True
        left &= ~scores.whole()
        if not left.any():
            return scores, tried
        scores = completed(texts, grid, scores, left)


def looking(texts: Bench, grid: Grid, writing: Writing) -> Look:
    """What looks at the texts of a cell, of each once."""

    @cache
    def base() -> Nats:
        return expected_nats(texts.model, [(UNSTEERED, [one.scored for one in texts.own])])

    @cache
    def look(position: Position) -> Tried:
        return _tried(texts, grid.steer(*position), position, writing, base())

    return look


def ordered(
    scores: Scores, grid: Grid, budget: Budget, part: slice | None = None
) -> list[Position]:
    """Cells that the rule lets through by what was scored of them, its choice first; or, by a part
    of the items and texts, those that were scored on all of it."""
    if budget.rule == "refusal_direction":
        return _by_refusal_direction(scores, grid, slice(None) if part is None else part)
    whole = (scores.effects(part), scores.costs(part)) if part is not None else None
    effects, costs = whole or scores.looks()
    left = effects.copy()
    chosen: list[Position] = []
    while True:
        best = strongest(left.ravel().tolist(), costs.ravel().tolist(), budget.kl)
        if best is None:
            return chosen
        chosen += positions_of(effects, [best])
        left[chosen[-1]] = -np.inf


def _by_refusal_direction(scores: Scores, grid: Grid, part: slice) -> list[Position]:
    """The rule with each coefficient for what adds, and its negative for what takes out."""
    costs, levels = scores.costs(part), scores.levels(part)
    positions, candidates = [], []
    for row, one in enumerate(grid.rows):
        columns = {(c.value, c.unit): index for index, c in enumerate(one.coefficients)}
        for (value, unit), column in columns.items():
            away = columns.get((-value, unit))
            if value > 0 and away is not None:
                positions.append((row, column))
                level, cost = levels[row], float(costs[row, away])
                candidates.append(
                    Candidate(one.layers[-1], float(level[away]), float(level[column]), cost)
                )
    n_layers = grid.rows[0].vector.metadata.model.n_layers
    return [positions[index] for index in refusal_direction(candidates, n_layers)]


def lines_of(grid: Grid, order: Sequence[Position]) -> list[list[Position]]:
    """Cells that differ in their coefficients alone, in their order; the line of the first one
    first."""
    lines: dict[tuple[str, tuple[int, ...]], list[Position]] = {}
    for position in order:
        row = grid.rows[position[0]]
        lines.setdefault((str(row), row.layers), []).append(position)
    return list(lines.values())


def _first_within(
    lines: Sequence[Sequence[Position]],
    order: Sequence[Position],
    costs: Array,
    look: Look,
    max_nats: float,
) -> Tried:
    """Of the cells that pass in their texts the first one; if none does, the last one looked at.

    Texts at one layer cost more than at another that does as much, so each line has an edge of its
    own. What may do more than what was found has to pass where it does hardly more.
    """
    rank = {position: number for number, position in enumerate(order)}
    best: Tried | None = None
    for line in lines[:LINES]:
        rivals = [one for one in line if best is None or rank[one] < rank[best.position]]
        if not rivals:
            break  # Nor do the lines that follow.
        rivals = _cheaper_and_cheaper(rivals, costs)
        if best is not None and look(rivals[-1]).extra_nats.value > max_nats:
            continue
        tried = _edge(rivals, look, max_nats)
        if tried.extra_nats.value <= max_nats:
            best = tried
    return best or tried


def _cheaper_and_cheaper(ordered: Sequence[Position], costs: Array) -> list[Position]:
    """Of cells in the rule's order those that cost less than all before them."""
    kept: list[Position] = []
    for position in ordered:
        if not kept or costs[position] < costs[kept[-1]]:
            kept.append(position)
    return kept


def _edge(line: Sequence[Position], look: Look, max_nats: float) -> Tried:
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


def _tried(texts: Bench, steer: Steer, position: Position, writing: Writing, base: Nats) -> Tried:
    written = write(texts.model, writing, [steer], engine=texts.engine)
    own = expected_nats(texts.model, [(Steered((steer,)), [one.scored for one in written])])
    pieces = [distinct(one.own) for one in written]
    return Tried(
        position,
        extra(own, base),
        rate([n for n, _ in pieces], [n for _, n in pieces]),
        tuple(texts.model.decode(one.ids) for one in written[:6]),
    )


def positions_of(cells: Array, flat: Sequence[int]) -> list[Position]:
    """GridRow and column of each of some cells that are known by their number."""
    return [divmod(index, cells.shape[1]) for index in flat]
