"""A choice of a sweep, met with texts by another seed: is it what those would choose?"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from steer.base.intervals import Interval
from steer.evaluation.batches import drift
from steer.evaluation.nats import expected_nats, extra
from steer.evaluation.scoring import UNSTEERED, Cell, score
from steer.evaluation.sweep import Bench
from steer.evaluation.written import Writing, own_texts, write
from steer.measures.grids import Grid, Place, Plan

#: Of items and unrelated texts. The second half of the texts is the one that is written anew.
HALVES = (slice(0, None, 2), slice(1, None, 2))


@dataclass(frozen=True)
class Repeat:
    """seed: of the new texts. grid: with them in place of every second unrelated text, where these
    were the model's own. extra_nats: of new texts at the choice, which are `samples`."""

    seed: int
    samples: int
    grid: Grid
    extra_nats: Interval

    def together(self, extra_nats: Interval, samples: int) -> float:
        """Extra nats of the new texts and of those that the choice was made by. These alone are too
        few: of many cells the choice is one whose texts came out well."""
        both = (self.extra_nats.value, extra_nats.value)
        return float(np.average(both, weights=(self.samples, samples)))


def repeat(texts: Bench, plan: Plan, grid: Grid, writing: Writing, place: Place) -> Repeat:
    """Half as many texts, by the next seed.

    Raises:
        HookError: a cell was never applied.
    """
    again = replace(writing, seed=writing.seed + 1, samples=max(2, writing.samples // 2))
    steer = plan.steer(*place)
    base, steered = (write(texts.model, again, steers) for steers in ((), [steer]))
    nats = extra(
        expected_nats(texts.model, [one.scored for one in steered], (steer,)),
        expected_nats(texts.model, [one.scored for one in base], UNSTEERED),
    )
    if texts.given:
        return Repeat(again.seed, again.samples, grid, nats)
    fresh = own_texts(texts.model, again, base)
    replaced = np.arange(len(grid.counts))[HALVES[1]][: len(fresh)]
    fresh = fresh[: len(replaced)]
    rivals = _rivals(grid, place)
    cells: list[Cell] = [(plan.steer(*one),) for one in rivals]
    sums = score(texts.model, fresh, cells, drift)
    drifts, counts = np.full_like(grid.drift, np.nan), grid.counts.copy()
    counts[replaced] = [float(len(text.scored)) for text in fresh]
    for (row, column), found in zip(rivals, sums, strict=True):
        drifts[row, column] = grid.drift[row, column]
        drifts[row, column, replaced] = found
    return Repeat(again.seed, again.samples, replace(grid, drift=drifts, counts=counts), nats)


def _rivals(grid: Grid, place: Place) -> list[Place]:
    """The place, and every cell that by half of the items does as much."""
    there = np.zeros(grid.effect.shape[:2], dtype=bool)
    for half in HALVES:
        effects = grid.effects(half)
        there |= effects >= effects[place]
    found = np.argwhere(there).tolist()
    return [(row, column) for row, column in found]
