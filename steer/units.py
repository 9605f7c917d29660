"""What the projection of an activation on a vector is measured in: the vector file's own units.

For an activation h and the unit vector u of a direction, the projection is h . u, in activation
units. A file that knows the mean projections m- and m+ of its two sides measures in them:

    r = (h . u - m-) / (m+ - m-)

so 0 is where the negative side's texts are on average and 1 where the positive side's are, whatever
the model, the layer and the length of the vector. A file without sides (a combined vector) leaves
the projection in activation units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from steer.errors import VectorError
from steer.metadata import Spread
from steer.sites import Site
from steer.vector import Directions, SteeringVector

Unit = Literal["sides", "activation"]


@dataclass(frozen=True, slots=True)
class Readout:
    """How far activations are along a vector at one of its layers.

    Raises:
        VectorError: the vector has no such layer, or no direction there.
    """

    vector: SteeringVector
    layer: int

    def __post_init__(self) -> None:
        if not self.vector.direction(self.layer).any():
            raise VectorError(
                f"vector {self.vector.name!r} is zero at layer {self.layer}",
                hint="a projection needs a direction",
            )

    @property
    def site(self) -> Site:
        """Where it is read."""
        return Site(self.layer, self.vector.metadata.site).canonical

    @property
    def axis(self) -> Directions:
        """Unit vector of the direction, float32 [d_model]; of a low-rank edit, of its constant."""
        direction = self.vector.direction(self.layer).astype(np.float64)
        return np.asarray(direction / np.linalg.norm(direction), dtype=np.float32)

    @property
    def sides(self) -> tuple[Spread, Spread] | None:
        """Projections of the negative and the positive side; None unless known and apart."""
        row = self.vector.metadata.at(self.layer)
        if row.negative is None or row.positive is None or row.negative.mean == row.positive.mean:
            return None
        return row.negative, row.positive

    @property
    def unit(self) -> Unit:
        """`sides` where the file knows both sides, else `activation`."""
        return "activation" if self.sides is None else "sides"

    @property
    def zero(self) -> float:
        """The projection that reads 0, in activation units."""
        return 0.0 if self.sides is None else self.sides[0].mean

    @property
    def scale(self) -> float:
        """Activation units in one unit of the readout; negative where the sides are turned."""
        return 1.0 if self.sides is None else self.sides[1].mean - self.sides[0].mean

    @property
    def middle(self) -> float:
        """What is neither side: half way between their means, or no projection at all."""
        return 0.0 if self.sides is None else 0.5

    @property
    def threshold(self) -> float | None:
        """Above it a text is more likely the positive side's, in the readout's unit.

        Where both sides are wrong equally often if their projections are normal, with deviations
        s- and s+: t = s- / (s- + s+), the equal error rate; half way where neither varies. None
        where the file does not know both sides. The statistics are of whole texts, or of their last
        tokens (`Metadata.read`): single tokens vary more.
        """
        if self.sides is None:
            return None
        negative, positive = (side.std for side in self.sides)
        return negative / (negative + positive) if negative + positive else 0.5

    @property
    def error_rate(self) -> float | None:
        """The share of either side beyond the threshold: Phi(-|m+ - m-| / (s- + s+)).

        Of the file's own texts, so an optimistic figure for others. None without a threshold.
        """
        if self.sides is None:
            return None
        spread = self.sides[0].std + self.sides[1].std
        return NormalDist().cdf(-abs(self.scale) / spread) if spread else 0.0

    def __str__(self) -> str:
        return f"{self.vector.name} @ {self.vector.metadata.site} {self.layer}"


def readouts(vector: SteeringVector, layers: Sequence[int] | None = None) -> list[Readout]:
    """One readout for each of `layers`; without them, at the recommended layer that tells the sides
    apart best.

    Raises:
        VectorError: the vector has no such layer, or no direction there.
    """
    if layers is None:
        metadata = vector.metadata
        known = {layer: metadata.at(layer).separability for layer in metadata.recommended.layers}
        layers = [max(known, key=lambda layer: known[layer] or 0.0)]
    return [Readout(vector, layer) for layer in layers]
