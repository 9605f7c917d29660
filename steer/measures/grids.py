"""A sweep's cells, and the numbers that they have been given. No tensors of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from steer.intervals import Interval, ratio
from steer.steering.operation import Coefficient
from steer.steering.scope import EVERYWHERE, Scope
from steer.steering.steers import Steer
from steer.vectors.vector import SteeringVector

Array = NDArray[np.float64]
EffectKind = Literal["preference", "recovery"]

#: Shares of the mean activation's length, so that they suit any model and layer.
SHARES = (0.02, 0.03, 0.05, 0.08, 0.12, 0.18, 0.27, 0.4, 0.6)
#: Multiples of a low-rank edit, which has no one length.
MULTIPLES = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)


@dataclass(frozen=True, slots=True)
class Plan:
    """Which cells: every set of layers with every coefficient."""

    vector: SteeringVector
    layers: tuple[tuple[int, ...], ...]
    coefficients: tuple[Coefficient, ...]
    scope: Scope = EVERYWHERE

    def steer(self, row: int, column: int) -> Steer:
        return Steer(self.vector, self.coefficients[column], self.layers[row], self.scope)


def default_coefficients(vector: SteeringVector) -> tuple[Coefficient, ...]:
    """The grid where none is given."""
    if vector.metadata.rank:
        return tuple(Coefficient(value) for value in MULTIPLES)
    return tuple(Coefficient(share, "residual") for share in SHARES)


@dataclass(frozen=True)
class Grid:
    """What was scored. Rows are sets of layers, columns coefficients; NaN is yet to come.

    effect: [row, column, item], over `weights` [item]: their sums' ratio is the effect. drift: sums
    of KL [row, column, text], over `counts` [text] positions. level: preferences for the positive
    ending themselves, in nats, [row, column, item]; only of pairs.
    """

    kind: EffectKind
    effect: Array
    weights: Array
    drift: Array
    counts: Array
    level: Array

    def effects(self, items: slice = slice(None)) -> Array:
        """[row, column], by all items or some."""
        return np.asarray(self.effect[..., items].sum(-1) / self.weights[items].sum())

    def levels(self, items: slice = slice(None)) -> Array:
        """Mean preference, [row, column], by all items or some."""
        return np.asarray(self.level[..., items].mean(-1))

    def costs(self) -> Array:
        """KL in nats per token, [row, column]."""
        return np.asarray(self.drift.sum(-1) / self.counts.sum())

    def effect_at(self, row: int, column: int) -> Interval:
        return ratio(self.effect[row, column], self.weights)

    def cost_at(self, row: int, column: int) -> Interval:
        return ratio(self.drift[row, column], self.counts)
