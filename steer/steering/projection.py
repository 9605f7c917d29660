"""Projections of activations on a vector, in the file's units, and thresholds for them.

Let u be the vector of a layer scaled to length 1, and neg and pos the mean projections of the two
sides of the contrast set, which the file stores. In *the file's units* the projection of an
activation h is

    (h . u - neg) / (pos - neg)

which is 0 at the mean of the negative side, 1 at the mean of the positive side, and 0.5 half-way
between them. `--watch`, `--when`, `--guard` and the monitor use these units. The ops `clamp`, `cap`
and `floor` take activation units instead, or the names neg, mid and pos.

For most vectors, neg and pos average over whole texts; projections of single tokens scatter more
widely around them.
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
from steer.steering.spec import Pooling, ReadSpec, ThresholdSpec
from steer.vectors.metadata import LayerStatistics, Metadata
from steer.vectors.sites import Site
from steer.vectors.vector import Directions, SteeringVector

#: A result shorter than this share of its parts is only rounding error of float32.
NOTHING = 1e-6
_WITH_SIDES = "a vector from extract, fit or distill"

OnTrip = Literal["stop", "error", "ablate"]
ON_TRIP: tuple[OnTrip, ...] = ("stop", "error", "ablate")


@dataclass(frozen=True)
class Projection:
    """The projection of activations h at one layer, in the file's units: h . weights + offset.

    Raises:
        VectorError: the vector lacks the layer or is zero there; or the file does not know the
            means of its two sides, or they are equal, so the projection has no units.
    """

    vector: SteeringVector
    layer: int

    def __post_init__(self) -> None:
        unit_direction(self.vector, self.layer)
        hint = f"to watch a projection, or compare it with a threshold, use {_WITH_SIDES}"
        negative = level(self.vector, self.layer, "neg", hint)
        if negative == level(self.vector, self.layer, "pos"):
            raise VectorError(
                f"the two sides of vector {self.vector.name!r} have the same mean at layer"
                f" {self.layer}, so a projection has no units",
                hint="read another layer, with @LAYER",
            )

    @property
    def site(self) -> Site:
        """The site whose activations are read."""
        return Site(self.layer, self.vector.metadata.activation_site).canonical

    @property
    def direction(self) -> Directions:
        """The unit vector, float32 [d_model]."""
        return unit_direction(self.vector, self.layer)

    @cached_property
    def weights(self) -> Directions:
        """float32 [d_model], in the file's units per activation unit."""
        return np.asarray(self.direction / self._separation, dtype=np.float32)

    @cached_property
    def offset(self) -> float:
        """In the file's units."""
        return -level(self.vector, self.layer, "neg") / self._separation

    @property
    def _separation(self) -> float:
        """The mean of the positive side minus the mean of the negative side, in activation
        units."""
        return level(self.vector, self.layer, "pos") - level(self.vector, self.layer, "neg")

    @property
    def auto_threshold(self) -> float:
        """The threshold that separates the two sides best, in the file's units.

        It is the point between the means where two normal densities with the sides' means and
        standard deviations cross, which makes the fewest errors if both sides are equally
        frequent. CAST (Lee et al. 2024, arXiv 2409.05907) searches threshold and layer over the
        texts themselves; a file stores only means and standard deviations.
        """
        row = self.vector.metadata.at(self.layer)
        sides = (row.negative, row.positive)
        spreads = (side.std / abs(self._separation) for side in sides if side)
        return _crossing_point(*spreads)

    def __str__(self) -> str:
        return f"{self.vector.name}@{self.layer}"


@dataclass(frozen=True)
class Threshold:
    """What a gate or a guard tests: whether a projection is above, or below, a value in the file's
    units."""

    projection: Projection
    above: bool
    value: float

    def passes(self, projection: float) -> bool:
        """Whether a projection, in the file's units, passes the threshold."""
        return projection > self.value if self.above else projection < self.value

    def __str__(self) -> str:
        return f"{self.projection}{'>' if self.above else '<'}{self.value:.4g}"


@dataclass(frozen=True)
class Gate:
    """Switches a steer on where a projection passes a threshold.

    pooling: `mean` and `last` test the prompt's mean or last token once, `token` tests each token.
    The prompt is read unsteered. A token is read during the steered forward pass: after the edits
    at earlier sites, before the edits at its own site.
    """

    threshold: Threshold
    pooling: Pooling

    @property
    def site(self) -> Site:
        return self.threshold.projection.site

    def __str__(self) -> str:
        return f"{self.threshold}/{self.pooling}"


@dataclass(frozen=True)
class Guard:
    """Acts when the projection of a generated token passes a threshold.

    on_trip: `stop` ends the text before the token; `error` makes generation fail; `ablate` removes
    the projection, at the layer that is read, from this token on. pooling: `token` checks every
    new token; `last` checks only the first one, which the last token of the prompt predicts.
    """

    threshold: Threshold
    on_trip: OnTrip = "stop"
    pooling: Literal["last", "token"] = "token"

    def looks(self, step: int) -> bool:
        """Whether the guard checks new token number `step`."""
        return self.pooling == "token" or step == 0

    def __str__(self) -> str:
        return f"{self.threshold}/last" if self.pooling == "last" else str(self.threshold)


def projection(spec: ReadSpec, vector: SteeringVector) -> Projection:
    """The projection for a spec, at the layer that the file recommends if the spec names none."""
    layer = spec.layer
    if layer is None:
        layer = reading_layer(vector.metadata)
    return Projection(vector, layer)


def threshold(spec: ThresholdSpec, vector: SteeringVector) -> Threshold:
    """The threshold for a spec; `auto` becomes the value from the file."""
    read = projection(spec.read, vector)
    value = read.auto_threshold if spec.value == "auto" else spec.value
    return Threshold(read, spec.above, value)


def gate(spec: ThresholdSpec, vector: SteeringVector) -> Gate:
    """The gate for a spec. If the spec names no pooling, the gate pools as the vector was read: the
    last token, or the mean."""
    pooling = spec.pooling
    if pooling is None:
        pooling = "last" if vector.metadata.read.at_end else "mean"
    return Gate(threshold(spec, vector), pooling)


def guard(spec: ThresholdSpec, vector: SteeringVector, on_trip: OnTrip) -> Guard:
    """The guard for a spec.

    The units of a vector that was read at last tokens are valid only there, so unless the spec says
    otherwise its guard checks only the last token of the prompt.

    Raises:
        UsageError: the spec asks for the mean of the prompt.
    """
    if spec.pooling == "mean":
        raise UsageError(
            f"{spec}: a guard checks new tokens, not the mean of the prompt",
            hint="write /token to check each new token, or /last to check only the first",
        )
    only_last = spec.pooling is None and vector.metadata.read.at_end
    pooling = "last" if only_last else spec.pooling or "token"
    return Guard(threshold(spec, vector), on_trip, pooling)


def most_separable(metadata: Metadata, layers: Sequence[int]) -> int:
    """The layer among `layers` with the highest separability of held-out texts; the first where
    the file has no separability."""
    return max(layers, key=lambda layer: metadata.at(layer).separability or 0.0)


def reading_layer(metadata: Metadata) -> int:
    """The layer at which a vector is read by default: among the layers whose separability of
    held-out texts is within 0.02 of the best, the one nearest to the recommended layers.

    A sweep recommends the layers at which steering has the largest effect, and these need not
    separate texts best.
    """
    scores = {layer.layer: layer.separability or 0.0 for layer in metadata.statistics}
    near_best = [layer for layer, score in scores.items() if score >= max(scores.values()) - 0.02]
    recommended = metadata.recommended.layers
    return min(
        near_best,
        key=lambda layer: (min(abs(layer - target) for target in recommended), -scores[layer]),
    )


def unit_direction(vector: SteeringVector, layer: int) -> Directions:
    """The vector of a layer scaled to length 1, float32 [d_model].

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
    vector: SteeringVector, layer: int, value: float | Side, hint: str | None = None
) -> float:
    """A projection in activation units: `value` itself, or the mean that `neg`, `mid` or `pos`
    names.

    hint: what the error advises.

    Raises:
        VectorError: the file does not store the means of its sides.
    """
    if not isinstance(value, str):
        return value
    row: LayerStatistics = vector.metadata.at(layer)
    if row.negative is None or row.positive is None:
        raise VectorError(
            f"vector {vector.name!r} does not say where its two sides lie"
            f" (it was made by {vector.metadata.method.name})",
            hint=hint or f"write a number in place of {value}, such as 0, or use {_WITH_SIDES}",
        )
    negative, positive = row.negative.mean, row.positive.mean
    return {"neg": negative, "mid": (negative + positive) / 2, "pos": positive}[value]


def _crossing_point(low: float, high: float) -> float:
    """The point between 0 and 1 where two normal densities cross: one with mean 0 and standard
    deviation `low`, one with mean 1 and standard deviation `high`.

    It solves x^2 / low^2 + 2 ln low = (x - 1)^2 / high^2 + 2 ln high, a quadratic in x.
    """
    if not low > 0 < high or math.isclose(low, high, rel_tol=1e-6):
        return 0.5
    # Files of others may hold any value; outside this range the formula overflows.
    if not (1e-9 < low < 1e9 and 1e-9 < high < 1e9):
        return 0.5
    a = 1 / low**2 - 1 / high**2
    b = 2 / high**2
    c = -1 / high**2 + 2 * math.log(low / high)
    root = math.sqrt(max(b * b - 4 * a * c, 0.0))
    crossings = [x for x in ((-b + root) / (2 * a), (-b - root) / (2 * a)) if 0 < x < 1]
    return crossings[0] if crossings else 0.5
