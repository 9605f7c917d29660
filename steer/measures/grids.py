"""A sweep's cells, and the scores that they got. No tensors of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from steer.base.intervals import Interval, ratio
from steer.steering.operation import ADD, Coefficient, Operation
from steer.steering.scope import EVERYWHERE, Scope
from steer.steering.spec import SteerSpec
from steer.steering.steers import Steer, usual_scope
from steer.vectors.sites import format_layers
from steer.vectors.vector import SteeringVector

Array = NDArray[np.float64]
EffectKind = Literal["preference", "recovery"]
Position = tuple[int, int]

#: Shares of the mean activation's length, so that they suit any model and layer.
SHARES = (0.02, 0.03, 0.05, 0.08, 0.12, 0.18, 0.27, 0.4, 0.6)
#: Multiples of a low-rank edit, which has no one length.
MULTIPLES = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
#: Shares of an edit that is made once, such as to take a projection out.
PARTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)
#: How many rows get finer shares, and from how many steps below the budget's edge. The best two by
#: their KL alone may fail by their texts, and what is left should not be coarse.
FINER_ROWS, STEPS_BELOW = 4, 1


@dataclass(frozen=True, slots=True)
class GridRow:
    """A vector by one op at a set of layers, with each of the coefficients.

    reference: how the vector was named.
    """

    vector: SteeringVector
    layers: tuple[int, ...]
    coefficients: tuple[Coefficient, ...]
    reference: str
    op: Operation = ADD
    scope: Scope = EVERYWHERE

    def steer(self, column: int) -> Steer:
        coefficient = self.coefficients[column]
        return Steer(self.vector, coefficient, self.layers, self.scope, self.op)

    def typed(self, column: int) -> str:
        """What `-v` takes for this cell."""
        coefficient = self.coefficients[column]
        return str(
            SteerSpec(self.reference, coefficient, self.layers, self._typed_scope, self._typed_op)
        )

    def __str__(self) -> str:
        """What is swept in this row, without its layers."""
        return str(SteerSpec(self.reference, scope=self._typed_scope, op=self._typed_op))

    @property
    def _typed_scope(self) -> Scope | None:
        """The scope, where it has to be typed because it is not the vector's usual one."""
        return None if self.scope == usual_scope(self.vector.metadata) else self.scope

    @property
    def _typed_op(self) -> Operation | None:
        """The op, where it has to be typed because the file recommends another."""
        return None if str(self.op) == self.vector.metadata.recommended.op else self.op


@dataclass(frozen=True, slots=True)
class Grid:
    """Which cells. The rows have equally many coefficients."""

    rows: tuple[GridRow, ...]

    @property
    def n_columns(self) -> int:
        return len(self.rows[0].coefficients)

    def steer(self, row: int, column: int) -> Steer:
        return self.rows[row].steer(column)

    def part(self, rows: Sequence[int]) -> Grid:
        """Some rows alone."""
        return Grid(tuple(self.rows[row] for row in rows))

    def labels(self) -> list[str]:
        """The rows' names: their layers, with what is swept there where it differs."""
        several = len({str(row) for row in self.rows}) > 1
        layers = [f"layer {format_layers(row.layers)}" for row in self.rows]
        if not several:
            return layers
        return [f"{row} {layer}" for row, layer in zip(self.rows, layers, strict=True)]


def default_coefficients(vector: SteeringVector, op: Operation = ADD) -> tuple[Coefficient, ...]:
    """The coefficients where none are given."""
    if op.name != "add":
        return tuple(Coefficient(value) for value in PARTS)
    if vector.metadata.rank:
        return tuple(Coefficient(value) for value in MULTIPLES)
    return tuple(Coefficient(share, "residual") for share in SHARES)


@dataclass(frozen=True)
class Scores:
    """What each cell was scored. NaN was not scored, or is yet to come: a cell that cannot be
    chosen may stay without some scores (`steer.measures.elimination`). Nothing changes in place:
    more scores make another object.

    effect: [row, column, item], over `weights` [item]: their sums' ratio is the effect. drift: sums
    of KL [row, column, text], over `counts` [text] positions. level: preferences for the positive
    ending themselves, in nats, [row, column, item]; only of pairs. idle: rows that changed nothing
    in all that was scored, so that their zeros say nothing.
    """

    kind: EffectKind
    effect: Array
    weights: Array
    drift: Array
    counts: Array
    level: Array
    idle: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        for name in ("effect", "weights", "drift", "counts", "level"):
            array = np.array(getattr(self, name), np.float64)
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @classmethod
    def empty(cls, kind: EffectKind, grid: Grid, n_items: int, counts: Array) -> Scores:
        """Scores of a grid that are all yet to come. counts: positions of each unrelated text."""
        shape = (len(grid.rows), grid.n_columns)
        items, texts = np.full((*shape, n_items), np.nan), np.full((*shape, len(counts)), np.nan)
        return cls(kind, items, np.zeros(n_items), texts, counts, items)

    def with_row(
        self,
        row: int,
        columns: NDArray[np.int64],
        items: tuple[NDArray[np.int64], Array, Array, Array | None],
        texts: tuple[NDArray[np.int64], Array],
    ) -> Scores:
        """The same and new scores of some columns of a row.

        items: numbers of the items, their effects [column, item], their weights [item], and their
        levels [column, item] where there are any. texts: numbers of the texts, and their KL.
        """
        effect, weights, level, drift = (
            np.array(array) for array in (self.effect, self.weights, self.level, self.drift)
        )
        numbers, effects, own_weights, levels = items
        effect[row][np.ix_(columns, numbers)] = effects
        weights[numbers] = own_weights
        if levels is not None:
            level[row][np.ix_(columns, numbers)] = levels
        drift[row][np.ix_(columns, texts[0])] = texts[1]
        return replace(self, effect=effect, weights=weights, level=level, drift=drift)

    def part(self, rows: Sequence[int]) -> Scores:
        """The scores of some rows alone."""
        kept = list(rows)
        idle = frozenset(index for index, row in enumerate(kept) if row in self.idle)
        effect, drift, level = (one[kept] for one in (self.effect, self.drift, self.level))
        return replace(self, effect=effect, drift=drift, level=level, idle=idle)

    def effects(self, items: slice = slice(None)) -> Array:
        """[row, column], by all items or some; NaN where one of them was not scored."""
        return np.asarray(self.effect[..., items].sum(-1) / self.weights[items].sum())

    def levels(self, items: slice = slice(None)) -> Array:
        """Mean preference, [row, column], by all items or some."""
        return np.asarray(self.level[..., items].mean(-1))

    def costs(self, texts: slice = slice(None)) -> Array:
        """KL in nats per token, [row, column], on all texts or some."""
        return np.asarray(self.drift[..., texts].sum(-1) / self.counts[texts].sum())

    def looks(self) -> tuple[Array, Array]:
        """Effects and costs, [row, column], each by what was scored there."""
        return ratios(self.effect, self.weights), ratios(self.drift, self.counts)

    def whole(self) -> NDArray[np.bool_]:
        """Whether each cell was scored on everything, [row, column]."""
        return ~np.isnan(self.effects() + self.costs())

    def n_items(self, row: int, column: int) -> int:
        """How many items a cell was scored on."""
        return int((~np.isnan(self.effect[row, column])).sum())

    def effect_at(self, row: int, column: int) -> Interval:
        """By the items that it was scored on."""
        return _scored(self.effect[row, column], self.weights)

    def cost_at(self, row: int, column: int) -> Interval:
        """By the texts that it was scored on."""
        return _scored(self.drift[row, column], self.counts)


def finer(grid: Grid, scores: Scores, max_kl: float) -> Grid | None:
    """The rows that do most within the budget by what was scored of them, with shares about its
    edge, a few per cent apart.

    None where no row that is within it has the default shares.
    """
    effects, costs = scores.looks()
    within = np.where(costs <= max_kl, effects, 0.0)
    shares = tuple(Coefficient(share, "residual") for share in SHARES)
    fitting = [
        index
        for index, row in enumerate(grid.rows)
        if row.coefficients == shares and within[index].max() > 0
    ]
    reached = reach(effects, costs, max_kl)
    best = sorted(fitting, key=lambda index: -float(reached[index]))[:FINER_ROWS]
    rows = tuple(
        replace(grid.rows[index], coefficients=_about(int(np.flatnonzero(within[index] > 0)[-1])))
        for index in best
    )
    return Grid(rows) if rows else None


def reach(effects: Array, costs: Array, max_kl: float) -> Array:
    """How much each row could do for `max_kl`, [row], if it had a cell there; -inf if none is
    within it.

    Between the best cell within and the next dearer one by the root of the cost: of small
    coefficients the effect goes with the coefficient, and KL with its square.
    """
    found = np.full(len(effects), -np.inf)
    for row, (effect, cost) in enumerate(zip(effects, costs, strict=True)):
        within = np.flatnonzero(cost <= max_kl)
        if not within.size:
            continue
        best = within[effect[within].argmax()]
        found[row] = effect[best]
        dearer = np.flatnonzero((cost > max_kl) & (effect > effect[best]))
        if dearer.size:
            after = dearer[cost[dearer].argmin()]
            low, high = np.sqrt(np.maximum(cost[[best, after]], 0.0))
            share = (np.sqrt(max_kl) - low) / (high - low)
            found[row] += share * (effect[after] - effect[best])
    return found


#: From so many rows on, a few cells of each say first which rows are worth all of them.
MANY_ROWS = 12
#: Which of nine coefficients are looked at first; and the least share of the best row's reach, and
#: the least number of rows, that go on.
PROBES, LEAST_REACH, LEAST_ROWS = (1, 4, 7), 0.4, 6


def probes(grid: Grid) -> Grid | None:
    """Three coefficients of each row, to find the rows that are worth all of them; None of a grid
    that is small, or has coefficients of the user's own."""
    if len(grid.rows) < MANY_ROWS or grid.n_columns != len(SHARES):
        return None
    return Grid(
        tuple(
            replace(row, coefficients=tuple(row.coefficients[index] for index in PROBES))
            for row in grid.rows
        )
    )


def promising(scores: Scores, max_kl: float) -> list[int]:
    """Numbers of the rows that by `reach` may hold the choice, in their order; all of them where no
    row is within the budget."""
    reached = reach(*scores.looks(), max_kl)
    best = float(reached.max())
    if not best > 0:
        return list(range(len(reached)))
    order = np.argsort(-reached, kind="stable")
    enough = [int(row) for row in order if reached[row] >= LEAST_REACH * best]
    return sorted({*enough, *order[:LEAST_ROWS].tolist()})


def thinned(grid: Grid, n: int) -> Grid:
    """At most n rows, evenly spaced through the middle of the grid, with every second coefficient,
    for a quick look."""
    rows = grid.rows
    if len(rows) > n:
        inside = np.linspace(0, len(rows) - 1, n + 2)[1:-1]
        rows = tuple(rows[round(index)] for index in inside.tolist())
    if grid.n_columns == len(SHARES):
        rows = tuple(replace(row, coefficients=row.coefficients[::2]) for row in rows)
    return Grid(rows)


def joined(first: Scores, second: Scores) -> Scores:
    """The rows of two grids over the same items and texts."""
    return replace(
        first,
        effect=np.concatenate([first.effect, second.effect]),
        drift=np.concatenate([first.drift, second.drift]),
        level=np.concatenate([first.level, second.level]),
    )


def _about(edge: int) -> tuple[Coefficient, ...]:
    """As many as `SHARES`, between the ones some steps below number `edge` and the one above."""
    low, high = SHARES[max(0, edge - STEPS_BELOW)], SHARES[min(len(SHARES) - 1, edge + 1)]
    steps = np.geomspace(low, high, len(SHARES) + 2)[1:-1]
    return tuple(Coefficient(float(f"{step:.3g}"), "residual") for step in steps)


def ratios(tops: Array, bottoms: Array) -> Array:
    """Sums over the last axis over those of `bottoms`, by what is not NaN; NaN where all is."""
    with np.errstate(invalid="ignore"):
        found = np.nansum(tops, -1) / np.where(np.isnan(tops), 0.0, bottoms).sum(-1)
    return np.asarray(found)


def _scored(tops: Array, bottoms: Array) -> Interval:
    there = ~np.isnan(tops)
    return ratio(tops[there], bottoms[there])
