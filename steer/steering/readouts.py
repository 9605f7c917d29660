"""The linear functions of activations that the monitor reports: one vector at one of its layers.

Units: the file's units (`steer.steering.projection`) where the file stores the means of its two
sides; otherwise, as for a combined vector, activation units: the projection on the unit vector.
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
    """A linear function of the activations h at one site: h . weights + offset.

    weights: float32 [d_model], in `unit` per activation unit. middle: the value that favours
    neither side: half-way between their means, or 0 in activation units. threshold: above it, a
    text more likely belongs to the positive side; None in activation units.
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
        """The site whose activations are read."""
        return Site(self.layer, self.vector.metadata.activation_site).canonical

    def __str__(self) -> str:
        return f"{self.vector.name}@{self.layer}"


def readout(vector: SteeringVector, layer: int) -> Readout:
    """The readout of a vector at one layer.

    Raises:
        VectorError: the vector has no such layer, is zero there, has two sides with the same mean,
            or is a learned token.
    """
    _ = vector.metadata.activation_site  # raises for a learned token
    row = vector.metadata.at(layer)
    if row.negative is None or row.positive is None:
        direction = unit_direction(vector, layer)
        return Readout(vector, layer, "activation", direction, 0.0, 0.0, None)
    projected = Projection(vector, layer)
    return Readout(
        vector,
        layer,
        "sides",
        projected.weights,
        projected.offset,
        0.5,
        projected.auto_threshold,
    )


def readouts(vector: SteeringVector, layers: Sequence[int] | None = None) -> list[Readout]:
    """A readout for each of `layers`; without `layers`, one at the layer that `reading_layer`
    chooses.

    Raises:
        VectorError: as `readout`.
    """
    if layers is None:
        layers = [reading_layer(vector.metadata)]
    return [readout(vector, layer) for layer in layers]
