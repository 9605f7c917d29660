"""What the monitor reads: a vector at one of its layers, in the file's units if it has any.

Where a file knows both of its sides, `steer.steering.projection` says what the units are. One that
does not (a combined vector) is read in activation units: the plain projection on its unit vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from steer.steering.projection import Projection, reading_layer, unit_direction
from steer.vectors.sites import Site
from steer.vectors.vector import Directions, SteeringVector


@dataclass(frozen=True, slots=True)
class Readout:
    """Reads activations h at one site, as h . weights + offset.

    weights: float32 [d_model], in `unit` per activation unit. middle: what is neither side, half
    way between them, or no projection at all. threshold: above it a text is more likely the
    positive side's; None in activation units.
    """

    vector: SteeringVector
    layer: int
    unit: Literal["sides", "activation"]
    weights: Directions
    offset: float
    middle: float
    threshold: float | None

    @property
    def site(self) -> Site:
        """Where it reads."""
        return Site(self.layer, self.vector.metadata.activation_site).canonical

    def __str__(self) -> str:
        return f"{self.vector.name}@{self.layer}"


def readout(vector: SteeringVector, layer: int) -> Readout:
    """A vector at one layer.

    Raises:
        VectorError: the vector has no such layer, is zero there, or has sides that lie at one
            place.
    """
    _ = vector.metadata.activation_site  # a learned token has none
    row = vector.metadata.at(layer)
    if row.negative is None or row.positive is None:
        direction = unit_direction(vector, layer)
        return Readout(vector, layer, "activation", direction, 0.0, 0.0, None)
    one = Projection(vector, layer)
    return Readout(vector, layer, "sides", one.weights, one.offset, 0.5, one.auto_threshold)


def readouts(vector: SteeringVector, layers: Sequence[int] | None = None) -> list[Readout]:
    """One readout for each of `layers`; without them, at the layer that
    `reading_layer` chooses.

    Raises:
        VectorError: as `readout`.
    """
    if layers is None:
        layers = [reading_layer(vector.metadata)]
    return [readout(vector, layer) for layer in layers]
