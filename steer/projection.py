"""The file's units: how far along a vector an activation lies.

The projection of an activation h at a layer is on the stored vector's unit vector u, and a file
says where its two sides have theirs, neg and pos on average, in activation units. In *the file's
units* the projection is

    (h . u - neg) / (pos - neg)

so 0 is where the mean of the negative side lies, 1 where that of the positive side lies, and 0.5
half way. The sides' means are over what was read when the vector was made, for most vectors means
over texts: single tokens scatter wider about them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from steer.errors import VectorError
from steer.fit import unit
from steer.metadata import Metadata, Spread
from steer.sites import Site
from steer.vector import Directions, SteeringVector


@dataclass(frozen=True)
class Projection:
    """Reads activations at one layer in the file's units, as h . weights + offset.

    Raises:
        VectorError: no such layer, a vector that is zero there, or sides that are not known or lie
            at one place, so that there are no units.
    """

    vector: SteeringVector
    layer: int

    def __post_init__(self) -> None:
        unit_direction(self.vector, self.layer)
        negative, positive = self._sides
        if negative.mean == positive.mean:
            raise VectorError(
                f"the two sides of vector {self.vector.name!r} lie at one place at layer"
                f" {self.layer}, so a projection has no units",
                hint="read another layer, with @LAYER",
            )

    @property
    def site(self) -> Site:
        """Where it reads."""
        return Site(self.layer, self.vector.metadata.site).canonical

    @property
    def direction(self) -> Directions:
        """The unit vector, float32 [d_model]."""
        return unit_direction(self.vector, self.layer)

    @cached_property
    def weights(self) -> Directions:
        """float32 [d_model], per activation unit."""
        return np.asarray(self.direction / self._way, dtype=np.float32)

    @cached_property
    def offset(self) -> float:
        return -self._sides[0].mean / self._way

    @property
    def auto_threshold(self) -> float:
        """Where the two sides are told apart best, in the file's units.

        Of two normal distributions with the sides' means and spreads, the place between the means
        where their densities cross: the fewest errors when both sides are as frequent.
        """
        low, high = (side.std / abs(self._way) for side in self._sides)
        return _crossing(low, high)

    @property
    def _sides(self) -> tuple[Spread, Spread]:
        row = self.vector.metadata.at(self.layer)
        if row.negative is None or row.positive is None:
            raise VectorError(
                f"vector {self.vector.name!r} does not say where its two sides lie"
                f" (it was made by {self.vector.metadata.method.name})",
                hint="units need a vector that extract, fit or distill made",
            )
        return row.negative, row.positive

    @property
    def _way(self) -> float:
        """From the negative side's mean to the positive side's, in activation units."""
        negative, positive = self._sides
        return positive.mean - negative.mean

    def __str__(self) -> str:
        return f"{self.vector.name}@{self.layer}"


def reading_layer(metadata: Metadata, layers: Sequence[int]) -> int:
    """The layer among `layers` that tells the sides apart best; the first where none is known."""
    return max(layers, key=lambda layer: metadata.at(layer).separability or 0.0)


def unit_direction(vector: SteeringVector, layer: int) -> Directions:
    """The vector of a layer at length 1, float32 [d_model].

    Raises:
        VectorError: the vector has no such layer, or is zero there.
    """
    direction = unit(vector.direction(layer).astype(np.float64))
    if not direction.any():
        raise VectorError(f"vector {vector.name!r} is zero at layer {layer}: it has no direction")
    return np.asarray(direction, dtype=np.float32)


def _crossing(low: float, high: float) -> float:
    """Where normal densities about 0 (std `low`) and 1 (std `high`) cross, between 0 and 1.

    x^2 / low^2 + 2 ln low = (x - 1)^2 / high^2 + 2 ln high, a quadratic in x.
    """
    if not low or not high or math.isclose(low, high, rel_tol=1e-6):
        return 0.5
    a = 1 / low**2 - 1 / high**2
    b = 2 / high**2
    c = -1 / high**2 + 2 * math.log(low / high)
    root = math.sqrt(max(b * b - 4 * a * c, 0.0))
    between = [x for x in ((-b + root) / (2 * a), (-b - root) / (2 * a)) if 0 < x < 1]
    return between[0] if between else 0.5
