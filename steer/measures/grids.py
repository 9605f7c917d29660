"""The grid of a sweep and the scores of its cells. No torch."""

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

#: Default coefficients as shares of the mean activation's length, which suit any model and layer.
SHARES = (0.02, 0.03, 0.05, 0.08, 0.12, 0.18, 0.27, 0.4, 0.6)
#: Default coefficients of a low-rank edit, which has no single length.
MULTIPLES = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
#: Default coefficients of ops other than `add`, such as the share of a projection to remove.
PARTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)
#: The most rows that get finer coefficients, and from how many steps below the budget. Several
#: rows, since the best two may exceed the budget of extra nats.
FINER_ROWS, STEPS_BELOW = 4, 1


@dataclass(frozen=True, slots=True)
class GridRow:
    """One row of cells: a vector with one op at a set of layers, with each of the coefficients.

    reference: the vector's name in `-v`.
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
        """This cell in the grammar of `-v`."""
        coefficient = self.coefficients[column]
        return str(
            SteerSpec(self.reference, coefficient, self.layers, self._typed_scope, self._typed_op)
        )

    def __str__(self) -> str:
        """The row in the grammar of `-v`, without its layers and coefficients."""
        return str(SteerSpec(self.reference, scope=self._typed_scope, op=self._typed_op))

    @property
    def _typed_scope(self) -> Scope | None:
        """The scope; None if it is the vector's default."""
        return None if self.scope == usual_scope(self.vector.metadata, self.op) else self.scope

    @property
    def _typed_op(self) -> Operation | None:
        """The op; None if the file recommends it."""
        return None if str(self.op) == self.vector.metadata.recommended.op else self.op


@dataclass(frozen=True, slots=True)
class Grid:
    """The cells of a sweep. All rows have the same number of coefficients."""

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
        """The rows' names: their layers, with vector, op and scope where rows differ in them."""
        several = len({str(row) for row in self.rows}) > 1
        layers = [f"layer {format_layers(row.layers)}" for row in self.rows]
        if not several:
            return layers
        return [f"{row} {layer}" for row, layer in zip(self.rows, layers, strict=True)]


def default_coefficients(vector: SteeringVector, op: Operation = ADD) -> tuple[Coefficient, ...]:
    """The coefficients to sweep where the user gives none."""
    if not op.op.adds:
        return tuple(Coefficient(value) for value in PARTS)
    if vector.metadata.rank:
        return tuple(Coefficient(value) for value in MULTIPLES)
    return tuple(Coefficient(share, "residual") for share in SHARES)


@dataclass(frozen=True)
class Scores:
    """The scores of each cell; immutable. NaN is a missing score; cells that were eliminated keep
    some (`steer.measures.elimination`).

    effect: [row, column, item], with `weights` [item]; a cell's effect is the ratio of their sums.
    drift: KL summed over each text, [row, column, text], with `counts` [text] of positions. level:
    preference for the positive ending, in nats, [row, column, item]; NaN without pairs. idle: rows
    that changed no scored token, so that their effects of 0 are no measurements.
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
        """A grid without any scores yet. counts: positions of each unrelated text."""
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
        """A copy with new scores for some columns of a row.

        items: indices of the items, their effects [column, item], their weights [item], and their
        levels [column, item] or None. texts: indices of the texts, and their KL [column, text].
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
        effect, drift, level = (array[kept] for array in (self.effect, self.drift, self.level))
        return replace(self, effect=effect, drift=drift, level=level, idle=idle)

    def effects(self, items: slice = slice(None)) -> Array:
        """Effects [row, column] on all items or some; NaN where an item was not scored."""
        return np.asarray(self.effect[..., items].sum(-1) / self.weights[items].sum())

    def levels(self, items: slice = slice(None)) -> Array:
        """Mean preference in nats, [row, column], on all items or some."""
        return np.asarray(self.level[..., items].mean(-1))

    def costs(self, texts: slice = slice(None)) -> Array:
        """KL in nats per token, [row, column], on all texts or some."""
        return np.asarray(self.drift[..., texts].sum(-1) / self.counts[texts].sum())

    def looks(self) -> tuple[Array, Array]:
        """Effects and costs [row, column], on the items and texts each cell was scored on."""
        return ratios(self.effect, self.weights), ratios(self.drift, self.counts)

    def complete(self) -> NDArray[np.bool_]:
        """Whether each cell was scored on all items and texts, [row, column]."""
        return ~np.isnan(self.effects() + self.costs())

    def n_items(self, row: int, column: int) -> int:
        """How many items a cell was scored on."""
        return int((~np.isnan(self.effect[row, column])).sum())

    def effect_at(self, row: int, column: int) -> Interval:
        """The effect of a cell on the items that it was scored on."""
        return _scored(self.effect[row, column], self.weights)

    def cost_at(self, row: int, column: int) -> Interval:
        """The KL of a cell in nats per token on the texts that it was scored on."""
        return _scored(self.drift[row, column], self.counts)


def finer(grid: Grid, scores: Scores, max_kl: float) -> Grid | None:
    """A grid of the strongest rows within the budget, with finer coefficients near its edge.

    None if no row within the budget has the default coefficients.
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
    """The effect that each row could have at a cost of `max_kl`, [row]; -inf if no cell is within.

    Interpolates between the best cell within the budget and the next more expensive one, linearly
    in the root of the cost: for small coefficients the effect is proportional to the coefficient,
    and KL to its square.
    """
    reached = np.full(len(effects), -np.inf)
    for row, (effect, cost) in enumerate(zip(effects, costs, strict=True)):
        within = np.flatnonzero(cost <= max_kl)
        if not within.size:
            continue
        best = within[effect[within].argmax()]
        reached[row] = effect[best]
        dearer = np.flatnonzero((cost > max_kl) & (effect > effect[best]))
        if dearer.size:
            after = dearer[cost[dearer].argmin()]
            low, high = np.sqrt(np.maximum(cost[[best, after]], 0.0))
            share = (np.sqrt(max_kl) - low) / (high - low)
            reached[row] += share * (effect[after] - effect[best])
    return reached


#: From this many rows on, a few cells of each row first decide which rows are scored in full.
MANY_ROWS = 12
#: Which of the nine coefficients are scored first. Rows with at least the share `LEAST_REACH` of
#: the best row's reach go on, but no fewer than `LEAST_ROWS` and no more than `MOST_ROWS`.
PILOT, LEAST_REACH, LEAST_ROWS, MOST_ROWS = (1, 4, 7), 0.4, 6, 12


def pilot(grid: Grid) -> Grid | None:
    """A grid with three coefficients of each row, to find the promising rows. None for a small grid
    or one with the user's own coefficients."""
    if len(grid.rows) < MANY_ROWS or grid.n_columns != len(SHARES):
        return None
    return Grid(
        tuple(
            replace(row, coefficients=tuple(row.coefficients[index] for index in PILOT))
            for row in grid.rows
        )
    )


def promising_rows(scores: Scores, max_kl: float) -> list[int]:
    """Rising indices of the rows that may contain the choice, judged by `reach`; all rows if none
    has an effect within the budget."""
    reached = reach(*scores.looks(), max_kl)
    best = float(reached.max())
    if not best > 0:
        return list(range(len(reached)))
    order = np.argsort(-reached, kind="stable")
    enough = [int(row) for row in order if reached[row] >= LEAST_REACH * best]
    return sorted({*enough[:MOST_ROWS], *order[:LEAST_ROWS].tolist()})


def thinned(grid: Grid, n: int) -> Grid:
    """At most n rows, evenly spaced through the middle of the grid, and all rows of several layers,
    with every second coefficient, for a quick look."""
    rows = tuple(row for row in grid.rows if len(row.layers) == 1)
    together = tuple(row for row in grid.rows if len(row.layers) > 1)
    if not rows:
        rows, together = together, ()
    if len(rows) > n:
        inside = np.linspace(0, len(rows) - 1, n + 2)[1:-1]
        rows = tuple(rows[round(index)] for index in inside.tolist())
    rows += together
    if grid.n_columns == len(SHARES):
        rows = tuple(replace(row, coefficients=row.coefficients[::2]) for row in rows)
    return Grid(rows)


def join_scores(first: Scores, second: Scores) -> Scores:
    """The scores of two grids on the same items and texts, the rows of the first one first."""
    return replace(
        first,
        effect=np.concatenate([first.effect, second.effect]),
        drift=np.concatenate([first.drift, second.drift]),
        level=np.concatenate([first.level, second.level]),
    )


def _about(edge: int) -> tuple[Coefficient, ...]:
    """As many coefficients as `SHARES`, from some steps below index `edge` to one step above."""
    low, high = SHARES[max(0, edge - STEPS_BELOW)], SHARES[min(len(SHARES) - 1, edge + 1)]
    steps = np.geomspace(low, high, len(SHARES) + 2)[1:-1]
    return tuple(Coefficient(float(f"{step:.3g}"), "residual") for step in steps)


def ratios(tops: Array, bottoms: Array) -> Array:
    """Sums of `tops` divided by sums of `bottoms` over the last axis, where `tops` is not NaN; NaN
    where it is NaN throughout."""
    with np.errstate(invalid="ignore"):
        sums = np.where(np.isnan(tops), 0.0, bottoms).sum(-1)
        return np.asarray(np.nansum(tops, -1) / sums)


def _scored(tops: Array, bottoms: Array) -> Interval:
    known = ~np.isnan(tops)
    return ratio(tops[known], bottoms[known])
