"""Choose a cell of a sweep within a budget, by its scores and by texts generated under it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from steer.base.intervals import Interval, rate
from steer.evaluation.bench import Bench, completed
from steer.evaluation.cells import UNSTEERED, SteeredCell
from steer.evaluation.scoring import Nats, added_nats, expected_nats
from steer.evaluation.shift import text_positions
from steer.evaluation.written import TextSettings, write
from steer.measures.elimination import contenders
from steer.measures.formulas import distinct
from steer.measures.grids import FINER_ROWS, Array, Grid, Position, Scores
from steer.measures.selection import Candidate, Rule, refusal_direction, strongest
from steer.steering.steers import Steer

#: Generate texts for at most this many lines of the grid, those with the best scores.
LINES = FINER_ROWS


#: The default limits of extra nats, for plain texts and for answers in a chat. Answers that follow
#: a system message have 0.15 to 0.5 (docs/evidence.md).
PLAIN_NATS, CHAT_NATS = 0.1, 0.25


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits of a cell. kl: nats per token on unrelated texts. nats: extra nats per token of
    its own texts under the unsteered model."""

    kl: float = 0.1
    nats: float = PLAIN_NATS
    rule: Rule = "budget"


@dataclass(frozen=True, slots=True)
class TriedCell:
    """A cell with measurements of texts that were generated under it.

    distinct: the share of different bigrams in a text. refused: cells that are excluded because of
    their texts. shift: how far the texts move towards the positive side, as the unsteered model
    reads them (`steer.evaluation.shift`); NaN for a low-rank edit.
    """

    position: Position
    extra_nats: Interval
    distinct: Interval
    samples: tuple[str, ...]
    refused: frozenset[Position] = frozenset()
    shift: float = math.nan


#: Generates and measures the texts of a cell.
Look = Callable[[Position], TriedCell]
#: The most cells of a shortlist.
SHORTLIST = 4


def choose(grid: Grid, scores: Scores, budget: Budget, look: Look) -> TriedCell | None:
    """The cell that the rule chooses within the budget. If the texts of every tried cell cost too
    much, it is the cheapest of these cells; None if the scores exclude all cells. look: from
    `cell_trial`.

    Raises:
        HookError: a cell was never applied.
    """
    order, (_, costs) = ordered(scores, grid, budget), scores.looks()
    if not order:
        return None
    looked: dict[Position, TriedCell] = {}

    def try_cell(position: Position) -> TriedCell:
        looked[position] = look(position)
        return looked[position]

    choice = _first_within(lines_of(grid, order), order, costs, try_cell, budget.nats)
    if choice.extra_nats.value > budget.nats:
        choice = min(looked.values(), key=lambda tried: tried.extra_nats.value)
    failed = [cell for cell, tried in looked.items() if tried.extra_nats.value > budget.nats]
    # Also cells above the KL budget: on half of the texts they might be below it.
    lines = lines_of(grid, list(np.ndindex(costs.shape)))
    refused = (
        position
        for line in lines
        for position in line
        if any(cell in line and costs[position] >= costs[cell] for cell in failed)
    )
    return replace(choice, refused=frozenset(refused))


def decide(
    texts: Bench, grid: Grid, scores: Scores, budget: Budget, look: Look
) -> tuple[Scores, TriedCell | None]:
    """The scores, completed for all rivals of the choice, and the choice.

    The search dropped cells early because others were stronger. If the texts exclude those others,
    the dropped cells compete again.

    Raises:
        HookError: a cell was never applied.
    """
    while True:
        tried = choose(grid, scores, budget, look)
        if tried is None:
            return scores, None
        rivals = contenders(scores, budget.kl, tried.refused)
        rivals[tried.position] = True
        rivals &= ~scores.complete()
        if not rivals.any():
            return scores, tried
        scores = completed(texts, grid, scores, rivals)


def cell_trial(texts: Bench, grid: Grid, writing: TextSettings) -> Look:
    """A function that generates texts under a cell and measures them, with a cache."""

    @cache
    def base() -> Nats:
        return expected_nats(texts.model, [(UNSTEERED, [text.scored for text in texts.own])])

    @cache
    def look(position: Position) -> TriedCell:
        return _tried(texts, grid.steer(*position), position, writing, base())

    return look


def shortlist(
    looked: Sequence[TriedCell], scores: Scores, budget: Budget, chosen: Position
) -> tuple[TriedCell, ...]:
    """The choice, and the cell with the largest effect of each other row. Only cells whose texts
    were generated and are within the budget count."""
    effects, _ = scores.looks()
    passed = [tried for tried in looked if tried.extra_nats.value <= budget.nats]
    passed.sort(key=lambda tried: (tried.position != chosen, -effects[tried.position]))
    first = {tried.position[0]: tried for tried in reversed(passed)}
    return tuple(tried for tried in passed if first[tried.position[0]] is tried)[:SHORTLIST]


def ordered(
    scores: Scores, grid: Grid, budget: Budget, part: slice | None = None
) -> list[Position]:
    """Cells that the rule accepts by their scores, the best first. part: use only this part of the
    items and texts, and only cells that were scored on all of it."""
    if budget.rule == "refusal_direction":
        return _by_refusal_direction(scores, grid, slice(None) if part is None else part)
    estimates = (scores.effects(part), scores.costs(part)) if part is not None else None
    effects, costs = estimates or scores.looks()
    remaining = effects.copy()
    chosen: list[Position] = []
    while True:
        best = strongest(remaining.ravel().tolist(), costs.ravel().tolist(), budget.kl)
        if best is None:
            return chosen
        chosen += positions_of(effects, [best])
        remaining[chosen[-1]] = -np.inf


def _by_refusal_direction(scores: Scores, grid: Grid, part: slice) -> list[Position]:
    """The order of the rule `refusal_direction`: a positive coefficient adds the direction, the
    same negative one removes it."""
    costs, levels = scores.costs(part), scores.levels(part)
    positions, candidates = [], []
    for row, grid_row in enumerate(grid.rows):
        columns = {(c.value, c.unit): index for index, c in enumerate(grid_row.coefficients)}
        for (value, unit), column in columns.items():
            away = columns.get((-value, unit))
            if value > 0 and away is not None:
                positions.append((row, column))
                level, cost = levels[row], float(costs[row, away])
                removed, induced = float(level[away]), float(level[column])
                candidates.append(Candidate(grid_row.layers[-1], removed, induced, cost))
    n_layers = grid.rows[0].vector.metadata.model.n_layers
    return [positions[index] for index in refusal_direction(candidates, n_layers)]


def lines_of(grid: Grid, order: Sequence[Position]) -> list[list[Position]]:
    """Lines of cells that differ only in their coefficients; the order of the cells is kept."""
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
) -> TriedCell:
    """The first cell whose texts are within the budget; if there is none, the last one tried.

    At different layers, texts of the same effect differ in cost, so the strongest cell within the
    budget is searched in each line. A later line is searched only if the budget allows its weakest
    cell among those that rank before the best so far.
    """
    rank = {position: number for number, position in enumerate(order)}
    best: TriedCell | None = None
    for line in lines[:LINES]:
        rivals = [cell for cell in line if best is None or rank[cell] < rank[best.position]]
        if not rivals:
            break  # later lines have no rivals either
        rivals = _record_lows(rivals, costs)
        if best is not None and look(rivals[-1]).extra_nats.value > max_nats:
            continue
        tried = _edge(rivals, look, max_nats)
        if tried.extra_nats.value <= max_nats:
            best = tried
    return best or tried


def _record_lows(ordered: Sequence[Position], costs: Array) -> list[Position]:
    """The cells, in the rule's order, that cost less than all before them."""
    kept: list[Position] = []
    for position in ordered:
        if not kept or costs[position] < costs[kept[-1]]:
            kept.append(position)
    return kept


def _edge(line: Sequence[Position], look: Look, max_nats: float) -> TriedCell:
    """The first cell of a line within the budget, by bisection: texts get worse with strength, so
    all weaker cells are within it too. If there is none, the last cell tried."""
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


def _tried(
    texts: Bench, steer: Steer, position: Position, writing: TextSettings, base: Nats
) -> TriedCell:
    written = write(texts.model, writing, [steer], engine=texts.engine)
    own = expected_nats(texts.model, [(SteeredCell((steer,)), [text.scored for text in written])])
    pieces = [distinct(text.own) for text in written]
    shift = math.nan
    if not steer.vector.metadata.rank:
        unsteered, steered = text_positions(
            texts.model, steer.vector, steer.layers, [texts.own, written]
        )
        shift = steered - unsteered
    return TriedCell(
        position,
        added_nats(own, base),
        rate([n for n, _ in pieces], [n for _, n in pieces]),
        tuple(texts.model.decode(text.ids) for text in written[:6]),
        shift=shift,
    )


def positions_of(cells: Array, flat: Sequence[int]) -> list[Position]:
    """Row and column of cells that are given by their flat index."""
    return [divmod(index, cells.shape[1]) for index in flat]
