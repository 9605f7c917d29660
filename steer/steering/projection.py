"""The file's units: how far along a vector an activation lies, and conditions on that.

The projection of an activation h at a layer is on the stored vector's unit vector u, and a file
says where its two sides have theirs, neg and pos on average, in activation units. In *the file's
units* the projection is

    (h . u - neg) / (pos - neg)

so 0 is where the mean of the negative side lies, 1 where that of the positive side lies, and 0.5
half way. These are the units of `--watch`, `--when`, `--guard` and of the monitor. (`clamp`, `cap`
and `floor` set a projection, and take it in activation units, or by the names neg, mid and pos.)
The sides' means are over what was read when the vector was made, for most vectors means over
texts: single tokens scatter wider about them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from steer.base.errors import UsageError, VectorError
from steer.fitting.fit import Array, unit
from steer.ops.op import Side
from steer.steering.spec import ConditionSpec, Pooling, ReadSpec
from steer.vectors.metadata import LayerStatistics, Metadata
from steer.vectors.sites import Site
from steer.vectors.vector import Directions, SteeringVector

#: A result shorter than this share of its parts is only rounding error of float32.
NOTHING = 1e-6
_WITH_SIDES = "a vector that extract, fit or distill made"

OnTrip = Literal["stop", "error", "ablate"]
ON_TRIP: tuple[OnTrip, ...] = ("stop", "error", "ablate")


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
        without = f"to watch a projection, or hold it against a threshold, takes {_WITH_SIDES}"
        negative = level(self.vector, self.layer, "neg", without)
        if negative == level(self.vector, self.layer, "pos"):
            raise VectorError(
                f"the two sides of vector {self.vector.name!r} lie at one place at layer"
                f" {self.layer}, so a projection has no units",
                hint="read another layer, with @LAYER",
            )

    @property
    def site(self) -> Site:
        """Where it reads."""
        return Site(self.layer, self.vector.metadata.activation_site).canonical

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
        return -level(self.vector, self.layer, "neg") / self._way

    @property
    def _way(self) -> float:
        """From the negative side's mean to the positive side's, in activation units."""
        return level(self.vector, self.layer, "pos") - level(self.vector, self.layer, "neg")

    @property
    def auto_threshold(self) -> float:
        """Where the two sides are told apart best, in the file's units.

        Of two normal distributions with the sides' means and spreads, the place between the means
        where their densities cross: the fewest errors when both sides are as frequent. CAST (Lee
        et al. 2024, arXiv 2409.05907) searches threshold and layer over the texts
        themselves; a file keeps means and spreads only.
        """
        row = self.vector.metadata.at(self.layer)
        spreads = (side.std / abs(self._way) for side in (row.negative, row.positive) if side)
        return _crossing(*spreads)

    def __str__(self) -> str:
        return f"{self.vector.name}@{self.layer}"


@dataclass(frozen=True)
class Condition:
    """A projection above, or below, a threshold in the file's units."""

    projection: Projection
    above: bool
    threshold: float

    def holds(self, value: float) -> bool:
        """Whether a projection in the file's units meets it."""
        return value > self.threshold if self.above else value < self.threshold

    def __str__(self) -> str:
        return f"{self.projection}{'>' if self.above else '<'}{self.threshold:.4g}"


@dataclass(frozen=True)
class Gate:
    """Open where the condition is met: by the prompt (its mean or last token), or by each token.

    A prompt is read before anything is steered. A token is read where it passes, as other steers
    have left it, before the edits at the same place.
    """

    condition: Condition
    pooling: Pooling

    @property
    def site(self) -> Site:
        return self.condition.projection.site

    def __str__(self) -> str:
        return f"{self.condition}/{self.pooling}"


@dataclass(frozen=True)
class Guard:
    """What happens when a generated token meets the condition.

    stop: its text ends before the token. error: generation fails. ablate: from the token on, the
    projection is removed at the layer that is read. pooling: `token` looks at every new token,
    `last` at the first alone, which the last token of the prompt writes.
    """

    condition: Condition
    on_trip: OnTrip = "stop"
    pooling: Literal["last", "token"] = "token"

    def looks(self, step: int) -> bool:
        """Whether it looks at new token number `step`."""
        return self.pooling == "token" or step == 0

    def __str__(self) -> str:
        return f"{self.condition}/last" if self.pooling == "last" else str(self.condition)


def projection(spec: ReadSpec, vector: SteeringVector) -> Projection:
    """What was typed, read where the file recommends."""
    layer = spec.layer
    if layer is None:
        layer = reading_layer(vector.metadata)
    return Projection(vector, layer)


def condition(spec: ConditionSpec, vector: SteeringVector) -> Condition:
    """What was typed, with the threshold of the file where it says `auto`."""
    read = projection(spec.read, vector)
    threshold = read.auto_threshold if spec.threshold == "auto" else spec.threshold
    return Condition(read, spec.above, threshold)


def gate(spec: ConditionSpec, vector: SteeringVector) -> Gate:
    """What was typed; read as the file was, from the last token or the mean."""
    pooling = spec.pooling
    if pooling is None:
        pooling = "last" if vector.metadata.read.at_end else "mean"
    return Gate(condition(spec, vector), pooling)


def guard(spec: ConditionSpec, vector: SteeringVector, on_trip: OnTrip) -> Guard:
    """What was typed. A file of last tokens has units there, and elsewhere none that hold: without
    a word its guard looks there alone.

    Raises:
        UsageError: it looks at the mean of the prompt.
    """
    if spec.pooling == "mean":
        raise UsageError(
            f"{spec}: a guard looks at new tokens, not at the prompt's mean",
            hint="write /token for each of them, or /last for what follows the prompt",
        )
    ends = spec.pooling is None and vector.metadata.read.at_end
    return Guard(condition(spec, vector), on_trip, "last" if ends else spec.pooling or "token")


def most_separable(metadata: Metadata, layers: Sequence[int]) -> int:
    """The layer among `layers` that tells held-out texts apart best; the first where none is
    known."""
    return max(layers, key=lambda layer: metadata.at(layer).separability or 0.0)


def reading_layer(metadata: Metadata) -> int:
    """The layer at which a vector is read by default: of those that tell held-out texts apart
    about as well as the best one does, the nearest to the layers recommended for steering.

    A sweep recommends where steering acts most; there, texts need not be told apart best.
    """
    scores = {layer.layer: layer.separability or 0.0 for layer in metadata.statistics}
    near_best = [layer for layer, score in scores.items() if score >= max(scores.values()) - 0.02]
    recommended = metadata.recommended.layers
    return min(
        near_best,
        key=lambda layer: (min(abs(layer - other) for other in recommended), -scores[layer]),
    )


def unit_direction(vector: SteeringVector, layer: int) -> Directions:
    """The vector of a layer at length 1, float32 [d_model].

    Raises:
        VectorError: the vector has no such layer, or is zero there.
    """
    direction = unit(vector.direction(layer).astype(np.float64))
    if not direction.any():
        raise VectorError(f"vector {vector.name!r} is zero at layer {layer}: it has no direction")
    return np.asarray(direction, dtype=np.float32)


def unit_directions(vector: SteeringVector, layer: int) -> Directions:
    """The directions of a layer that an op such as `ablate` takes one by one: orthogonal, of length
    1, float32 [k, d_model]. For a low-rank edit, they span all that it can write.

    Raises:
        VectorError: the vector has no such layer, or is zero there.
    """
    factors = vector.low_rank(layer)
    if factors is None:
        return unit_direction(vector, layer)[None]
    rows = np.concatenate([factors[1].T, vector.direction(layer)[None]])
    basis = span(rows.astype(np.float64))
    if not len(basis):
        raise VectorError(f"vector {vector.name!r} is zero at layer {layer}: it has no direction")
    return np.asarray(basis, dtype=np.float32)


def span(rows: Array) -> Array:
    """Orthogonal rows of length 1 that span the same space, float64 [k, d_model]; equal, zero and
    nearly dependent rows count once. rows: [n, d_model]."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units = rows / np.where(lengths > 0, lengths, 1)
    _, sizes, basis = np.linalg.svd(units, full_matrices=False)
    return np.asarray(basis[sizes > NOTHING])


def level(
    vector: SteeringVector, layer: int, value: float | Side, without: str | None = None
) -> float:
    """A projection in activation units: a number as it is, or where a side lies.

    without: what to do where the file does not say that.

    Raises:
        VectorError: the file does not say where its sides lie.
    """
    if not isinstance(value, str):
        return value
    row: LayerStatistics = vector.metadata.at(layer)
    if row.negative is None or row.positive is None:
        raise VectorError(
            f"vector {vector.name!r} does not say where its two sides lie"
            f" (it was made by {vector.metadata.method.name})",
            hint=without or f"write a number in place of {value}, such as 0, or use {_WITH_SIDES}",
        )
    negative, positive = row.negative.mean, row.positive.mean
    return {"neg": negative, "mid": (negative + positive) / 2, "pos": positive}[value]


def _crossing(low: float, high: float) -> float:
    """Where normal densities about 0 (std `low`) and 1 (std `high`) cross, between 0 and 1.

    x^2 / low^2 + 2 ln low = (x - 1)^2 / high^2 + 2 ln high, a quadratic in x.
    """
    if not low > 0 < high or math.isclose(low, high, rel_tol=1e-6):
        return 0.5
    # A stranger's file may say anything: beyond this the numbers leave the range of floats.
    if not (1e-9 < low < 1e9 and 1e-9 < high < 1e9):
        return 0.5
    a = 1 / low**2 - 1 / high**2
    b = 2 / high**2
    c = -1 / high**2 + 2 * math.log(low / high)
    root = math.sqrt(max(b * b - 4 * a * c, 0.0))
    between = [x for x in ((-b + root) / (2 * a), (-b - root) / (2 * a)) if 0 < x < 1]
    return between[0] if between else 0.5
