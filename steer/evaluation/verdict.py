"""Which cell of a sweep to recommend, held against random directions and against itself."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np

from steer.base.intervals import Interval, difference, ratio
from steer.evaluation.batches import drift
from steer.evaluation.bench import Bench, completed
from steer.evaluation.cells import UNSTEERED, Cell, Steered
from steer.evaluation.choice import (
    LINES,
    Budget,
    Look,
    Tried,
    decide,
    lines_of,
    looking,
    ordered,
    positions_of,
)
from steer.evaluation.scoring import expected_nats, extra, score
from steer.evaluation.written import Writing, own_texts, write
from steer.measures.baselines import N_CHANCE, random_direction, reach_of_chance
from steer.measures.formulas import wrong_way
from steer.measures.grids import Grid, GridRow, Position, Scores
from steer.measures.selection import nearest, pareto

#: Items of which fewer have intervals that say little.
FEWEST_ITEMS = 8
#: Of items and unrelated texts. The second half of the texts is the one that is written anew.
HALVES = (slice(0, None, 2), slice(1, None, 2))


@dataclass(frozen=True)
class Repeat:
    """seed: of the new texts. scores: with them in place of every second unrelated text, where
    those were the model's own. extra_nats: of new texts at the choice, which are `samples`."""

    seed: int
    samples: int
    scores: Scores
    extra_nats: Interval

    def together(self, extra_nats: Interval, samples: int) -> float:
        """Extra nats of the new texts and of those that the choice was made by. These alone are too
        few: of many cells the choice is one whose texts came out well."""
        both = (self.extra_nats.value, extra_nats.value)
        return float(np.average(both, weights=(self.samples, samples)))


@dataclass(frozen=True)
class Verdict:
    """What came of it. scores: with the choice's rivals scored on everything. position: the cell
    that is recommended, or the nearest one, with `reason` why it is not recommended.

    random: the effect of each random direction there. chance: what they reach at the best layer
    by chance. margin: how much more the cell does than the random ones on the same items.
    again: new texts at the choice. stable: whether both halves of the items lead to the same, the
    second with new texts, and all texts are within the budget; None where nothing was chosen, or
    where there was one cell to choose from.
    """

    scores: Scores
    position: Position | None
    reason: str | None
    front: tuple[Position, ...]
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
        return self.position is not None and self.reason is None


def judge(
    texts: Bench,
    grid: Grid,
    scores: Scores,
    budget: Budget,
    writing: Writing,
    n_left_out: int = 0,
) -> Verdict:
    """Choose a cell, and find out whether it deserves it. n_left_out: rows that were looked at, and
    are not in the grid.

    Raises:
        HookError: a cell was never applied.
    """
    look = looking(texts, grid, writing)
    scores, tried = decide(texts, grid, scores, budget, look)
    effects, costs = scores.looks()
    whole = scores.whole().ravel().tolist()
    best = pareto(effects.ravel().tolist(), costs.ravel().tolist(), whole)
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
        reason = f"no cell that was tried has extra nats of at most {budget.nats:g} per token"
        return Verdict(scores, tried.position, reason, front, tried)
    again = repeat(texts, grid, scores, writing, tried.position)
    instability = _instability(again.scores, grid, budget, tried.position, tried.refused, look)
    nats = again.together(tried.extra_nats, writing.samples)
    if nats > budget.nats:
        instability = f"with those by seed {again.seed}, texts have extra nats of {nats:.3f}"
    stable: bool | None = not instability
    if stable and effects.size == 1:
        stable, instability = None, "a grid of one cell has no other that a half could prefer"
    verdict = _held_against_chance(texts, grid, scores, front, tried, n_left_out)
    return replace(verdict, again=again, stable=stable, instability=instability)


def _held_against_chance(
    texts: Bench,
    grid: Grid,
    scores: Scores,
    front: tuple[Position, ...],
    tried: Tried,
    n_left_out: int,
) -> Verdict:
    """A choice is the best of many places, so chance has as many to be the best of. Coefficients of
    one sign are one place: what a direction does with them goes together."""
    row, column = tried.position
    steer = grid.steer(row, column)
    found, weights = texts.score(
        [Steered((random_direction(steer, seed),)) for seed in range(N_CHANCE)]
    )
    random = tuple(float(one) for one in found.sum(1) / weights.sum())
    own = scores.effect[row, column]
    margin = difference((own, weights), (found.mean(0), weights))
    every = {(str(one), one.layers, c.value > 0) for one in grid.rows for c in one.coefficients}
    chance = max(*random, reach_of_chance(random, len(every) + n_left_out))
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
    """How the halves disagree with the choice of all; empty if they do not.

    A half has every second item, and every second unrelated text. What the choice's texts cost is
    told by all of them: what was `refused` for it is out. To what a half prefers the choice may
    have had no reason to `look`; it is out too if the cheapest of its line fails.
    """
    whole, costs = scores.effect_at(*position), scores.costs()
    chosen = grid.rows[position[0]]
    for half in HALVES:
        # They choose among what costs no more than the choice: how much a half of the texts drifts
        # is not what is asked.
        within = replace(budget, kl=float(scores.costs(half)[position]))
        order = [one for one in ordered(scores, grid, within, half) if one not in refused]
        if not order:
            return "half of the items leads to no choice at all"
        ahead = list(takewhile(lambda one: not _neighbours(grid, chosen, grid.rows[one[0]]), order))
        for line in lines_of(grid, ahead)[:LINES]:
            cheapest = min(line, key=lambda one: float(costs[one]))
            if look(cheapest).extra_nats.value <= budget.nats:
                return f"half of the items leads to {grid.labels()[cheapest[0]]}"
        if len(ahead) == len(order):
            return "half of the items leads to no choice at all"
        effect = float(scores.effects(half)[order[len(ahead)]])
        if not whole.low <= effect <= whole.high:
            return f"half of the items gives an effect of {effect:.2f}"
    return ""


def _neighbours(grid: Grid, one: GridRow, other: GridRow) -> bool:
    """Whether two rows sweep the same, at the same layers or at the next ones."""
    layers = sorted({row.layers for row in grid.rows if str(row) == str(one)})
    return str(one) == str(other) and abs(layers.index(one.layers) - layers.index(other.layers)) < 2


def repeat(
    texts: Bench, grid: Grid, scores: Scores, writing: Writing, position: Position
) -> Repeat:
    """Half as many texts, by the next seed.

    Raises:
        HookError: a cell was never applied.
    """
    again = replace(writing, seed=writing.seed + 1, samples=max(2, writing.samples // 2))
    steer = grid.steer(*position)
    base, steered = (write(texts.model, again, steers) for steers in ((), [steer]))
    nats = extra(
        expected_nats(texts.model, [(Steered((steer,)), [one.scored for one in steered])]),
        expected_nats(texts.model, [(UNSTEERED, [one.scored for one in base])]),
    )
    if texts.given:
        return Repeat(again.seed, again.samples, scores, nats)
    fresh = own_texts(texts.model, again, base)
    replaced = np.arange(len(scores.counts))[HALVES[1]][: len(fresh)]
    fresh = fresh[: len(replaced)]
    rivals = _rivals(scores, position)
    cells: list[Cell] = [Steered((grid.steer(*one),)) for one in rivals]
    sums = score(texts.model, fresh, cells, drift)
    drifts, counts = np.full_like(scores.drift, np.nan), scores.counts.copy()
    counts[replaced] = [float(len(text.scored)) for text in fresh]
    for (row, column), found in zip(rivals, sums, strict=True):
        drifts[row, column] = scores.drift[row, column]
        drifts[row, column, replaced] = found
    return Repeat(again.seed, again.samples, replace(scores, drift=drifts, counts=counts), nats)


def _rivals(scores: Scores, position: Position) -> list[Position]:
    """The position, and every cell that by half of the items does as much."""
    there = np.zeros(scores.effect.shape[:2], dtype=bool)
    for half in HALVES:
        effects = scores.effects(half)
        there |= effects >= effects[position]
    found = np.argwhere(there).tolist()
    return [(row, column) for row, column in found]
