"""Decide which cell of a sweep to recommend: compare it with random directions, test stability."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np

from steer.base.intervals import Interval, difference, ratio
from steer.evaluation.batches import drift
from steer.evaluation.bench import Bench, OnShare, completed
from steer.evaluation.cells import UNSTEERED, Cell, SteeredCell
from steer.evaluation.choice import (
    LINES,
    Budget,
    Look,
    TriedCell,
    cell_trial,
    decide,
    lines_of,
    ordered,
    positions_of,
    shortlist,
)
from steer.evaluation.scoring import added_nats, expected_nats, score
from steer.evaluation.written import TextSettings, own_texts, write
from steer.measures.baselines import N_CHANCE, random_direction, reach_of_chance
from steer.measures.formulas import wrong_way
from steer.measures.grids import Grid, GridRow, Position, Scores
from steer.measures.selection import nearest, pareto

#: Fewer items are too few to exclude chance.
FEWEST_ITEMS = 8
#: The halves of items and unrelated texts. The second half of the texts is generated again.
HALVES = (slice(0, None, 2), slice(1, None, 2))


@dataclass(frozen=True)
class Repeat:
    """The choice measured on newly generated texts.

    seed, samples: of the new texts. scores: if the unrelated texts are the model's own, every
    second one is replaced by a new one. extra_nats: of new texts at the choice.
    """

    seed: int
    samples: int
    scores: Scores
    extra_nats: Interval

    def pooled(self, extra_nats: Interval, samples: int) -> float:
        """The mean extra nats of the new texts and of the texts that led to the choice. The latter
        alone are biased: the best of many cells is partly best by chance."""
        both = (self.extra_nats.value, extra_nats.value)
        return float(np.average(both, weights=(self.samples, samples)))


@dataclass(frozen=True)
class Verdict:
    """The choice of a sweep and its evidence.

    scores: the choice's rivals are scored on all items and texts. position: the recommended cell;
    if there is a `reason` not to recommend any, the nearest one. random: the effect of each random
    direction there. chance: the effect that random directions exceed at their best layer with a
    probability of 5 %. margin: the cell's effect minus that of random directions, on the same
    items. again: the choice measured on new texts. stable: whether both halves of the items (the
    second with new texts) lead to the same choice, and all texts are within the budget; None if
    nothing was chosen, or if the grid has only one cell. shortlist: see `choice.shortlist`.
    """

    scores: Scores
    position: Position | None
    reason: str | None
    front: tuple[Position, ...]
    tried: TriedCell | None = None
    random: tuple[float, ...] = ()
    chance: float | None = None
    margin: Interval | None = None
    again: Repeat | None = None
    stable: bool | None = None
    instability: str = ""
    wrong_way: tuple[int, ...] = ()
    shortlist: tuple[TriedCell, ...] = ()

    @property
    def recommended(self) -> bool:
        return self.position is not None and self.reason is None


def assess(
    texts: Bench,
    grid: Grid,
    scores: Scores,
    budget: Budget,
    writing: TextSettings,
    n_left_out: int = 0,
    *,
    twice: bool = True,
    on_progress: OnShare = lambda activity, share: None,
) -> Verdict:
    """Choose a cell, and test whether it can be recommended.

    n_left_out: rows that were examined but are not in the grid. twice: also generate new texts, to
    test whether they lead to the same choice; without them `stable` is None.

    Raises:
        HookError: a cell was never applied.
    """
    looked: dict[Position, TriedCell] = {}
    find = cell_trial(texts, grid, writing)

    def look(position: Position) -> TriedCell:
        on_progress("writing texts under the best cells", min(0.5, len(looked) / 16))
        looked[position] = find(position)
        return looked[position]

    scores, tried = decide(texts, grid, scores, budget, look)
    effects, costs = scores.looks()
    complete = scores.complete().ravel().tolist()
    best = pareto(effects.ravel().tolist(), costs.ravel().tolist(), complete)
    front = tuple(positions_of(effects, best))
    if tried is None:
        near = nearest(effects.ravel().tolist(), costs.ravel().tolist())
        if near is None:
            return Verdict(scores, None, "no cell has an effect above 0", front)
        position = positions_of(effects, [near])[0]
        cells = np.zeros(effects.shape, dtype=bool)
        cells[position] = True
        scores = completed(texts, grid, scores, cells)
        reason = f"no cell with an effect has a KL of at most {budget.kl:g}"
        return Verdict(scores, position, reason, front)
    if tried.extra_nats.value > budget.nats:
        reason = f"no cell that was tried has at most {budget.nats:g} extra nats per token"
        return Verdict(scores, tried.position, reason, front, tried)
    again: Repeat | None = None
    stable: bool | None = None
    if not twice:
        instability = "no texts were written with another seed"
    else:
        on_progress("writing texts with another seed", 0.5)
        again = repeat(texts, grid, scores, writing, tried.position)
        instability = _instability(again.scores, grid, budget, tried.position, tried.refused, look)
        nats = again.pooled(tried.extra_nats, writing.samples)
        if nats > budget.nats:
            instability = f"with those of seed {again.seed}, texts have {nats:.3f} extra nats"
        stable = not instability
        if stable and effects.size == 1:
            stable, instability = None, "the grid has only one cell"
    on_progress("comparing the choice with random directions", 0.8)
    verdict = _compare_with_chance(texts, grid, scores, front, tried, n_left_out)
    listed = shortlist(list(looked.values()), scores, budget, tried.position)
    return replace(verdict, again=again, stable=stable, instability=instability, shortlist=listed)


def _compare_with_chance(
    texts: Bench,
    grid: Grid,
    scores: Scores,
    front: tuple[Position, ...],
    tried: TriedCell,
    n_left_out: int,
) -> Verdict:
    """Compare the choice with random directions.

    The choice is the best of many rows, so the best of as many random directions is compared.
    Coefficients of the same sign count once, since their effects are correlated.
    """
    row, column = tried.position
    steer = grid.steer(row, column)
    effects, weights = texts.score(
        [SteeredCell((random_direction(steer, seed),)) for seed in range(N_CHANCE)]
    )
    random = tuple(float(effect) for effect in effects.sum(1) / weights.sum())
    own = scores.effect[row, column]
    margin = difference((own, weights), (effects.mean(0), weights))
    every = {(str(r), r.layers, c.value > 0) for r in grid.rows for c in r.coefficients}
    chance = max(*random, reach_of_chance(random, len(every) + n_left_out))
    effect, reason = ratio(own, weights), None
    if len(own) < FEWEST_ITEMS:
        reason = (
            f"{len(own)} held-out items are too few to exclude chance: give at least {FEWEST_ITEMS}"
        )
    elif margin.low <= 0 or effect.value <= chance:
        reason = (
            "it does not beat random directions of its length, which reach up to"
            f" {chance:.2f} at their best layer"
        )
    elif effect.low <= 0:
        reason = f"its effect may be 0, {effect}: give more items"
    wrong = tuple(wrong_way(own))
    return Verdict(
        scores, tried.position, reason, front, tried, random, chance, margin, wrong_way=wrong
    )


def _instability(
    scores: Scores,
    grid: Grid,
    budget: Budget,
    position: Position,
    refused: Container[Position],
    look: Look,
) -> str:
    """How the choice from a half of the data differs from the choice from all; "" if neither does.

    A half has every second item, and every second unrelated text. Cells that were `refused` because
    of their texts are excluded. If a half prefers a line whose texts have not been generated yet,
    `look` generates those of its cheapest cell, and the line is excluded if they cost too much.
    """
    estimate, costs = scores.effect_at(*position), scores.costs()
    chosen = grid.rows[position[0]]
    for half in HALVES:
        # The limit is the KL of the choice on this half: the test is not about the KL itself.
        within = replace(budget, kl=float(scores.costs(half)[position]))
        order = [cell for cell in ordered(scores, grid, within, half) if cell not in refused]
        if not order:
            return "half of the items leads to no choice at all"
        ahead = list(
            takewhile(lambda cell: not _neighbours(grid, chosen, grid.rows[cell[0]]), order)
        )
        for line in lines_of(grid, ahead)[:LINES]:
            cheapest = min(line, key=lambda cell: float(costs[cell]))
            if look(cheapest).extra_nats.value <= budget.nats:
                return f"half of the items leads to {grid.labels()[cheapest[0]]}"
        if len(ahead) == len(order):
            return "half of the items leads to no choice at all"
        effect = float(scores.effects(half)[order[len(ahead)]])
        if not estimate.low <= effect <= estimate.high:
            return f"half of the items gives an effect of {effect:.2f}"
    return ""


def _neighbours(grid: Grid, first: GridRow, other: GridRow) -> bool:
    """Whether two rows have the same vector and op, at the same or neighbouring layers."""
    if str(first) != str(other):
        return False
    layers = sorted({row.layers for row in grid.rows if str(row) == str(first)})
    return abs(layers.index(first.layers) - layers.index(other.layers)) < 2


def repeat(
    texts: Bench, grid: Grid, scores: Scores, writing: TextSettings, position: Position
) -> Repeat:
    """Measure the choice on half as many new texts, from the next seed.

    Raises:
        HookError: a cell was never applied.
    """
    again = replace(writing, seed=writing.seed + 1, samples=max(2, writing.samples // 2))
    steer = grid.steer(*position)
    base, steered = (write(texts.model, again, steers) for steers in ((), [steer]))
    nats = added_nats(
        expected_nats(texts.model, [(SteeredCell((steer,)), [text.scored for text in steered])]),
        expected_nats(texts.model, [(UNSTEERED, [text.scored for text in base])]),
    )
    if not texts.own_unrelated:
        return Repeat(again.seed, again.samples, scores, nats)
    fresh = own_texts(texts.model, again, base)
    replaced = np.arange(len(scores.counts))[HALVES[1]][: len(fresh)]
    fresh = fresh[: len(replaced)]
    rivals = _rivals(scores, position)
    cells: list[Cell] = [SteeredCell((grid.steer(*rival),)) for rival in rivals]
    sums = score(texts.model, fresh, cells, drift)
    drifts, counts = np.full_like(scores.drift, np.nan), scores.counts.copy()
    counts[replaced] = [float(len(text.scored)) for text in fresh]
    for (row, column), fresh_drifts in zip(rivals, sums, strict=True):
        drifts[row, column] = scores.drift[row, column]
        drifts[row, column, replaced] = fresh_drifts
    return Repeat(again.seed, again.samples, replace(scores, drift=drifts, counts=counts), nats)


def _rivals(scores: Scores, position: Position) -> list[Position]:
    """All cells with at least the effect of this one on either half of the items, it included."""
    rivals = np.zeros(scores.effect.shape[:2], dtype=bool)
    for half in HALVES:
        effects = scores.effects(half)
        rivals |= effects >= effects[position]
    return [(row, column) for row, column in np.argwhere(rivals).tolist()]
