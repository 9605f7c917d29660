"""The unit of a readout: what the laws of its definition say."""

from __future__ import annotations

import math
from statistics import NormalDist

import msgspec
import numpy as np
import pytest
from conftest import make_vector
from hypothesis import given
from hypothesis import strategies as st

from steer.base.errors import VectorError
from steer.steering.readouts import Readout, readout, readouts
from steer.vectors.metadata import Spread
from steer.vectors.sites import Site
from steer.vectors.vector import SteeringVector

numbers = st.integers(-1_000, 1_000).map(lambda value: value / 10)
spreads = st.builds(Spread, mean=numbers, std=st.integers(1, 300).map(lambda value: value / 10))


def with_sides(positive: Spread | None, negative: Spread | None) -> SteeringVector:
    vector = make_vector(layers=(0,))
    row = msgspec.structs.replace(
        vector.metadata.statistics[0], positive=positive, negative=negative
    )
    metadata = msgspec.structs.replace(vector.metadata, statistics=(row,))
    return SteeringVector(metadata, vector.directions)


def read(reading: Readout, projection: float) -> float:
    """The reading of an activation that lies `projection` along the vector, and nowhere else."""
    direction = reading.vector.direction(reading.layer).astype(np.float64)
    h = projection * direction / np.linalg.norm(direction)
    return float(h @ reading.weights.astype(np.float64)) + reading.offset


@given(spreads, spreads)
def test_the_sides_are_0_and_1_and_the_threshold_is_where_their_densities_cross(
    positive: Spread, negative: Spread
) -> None:
    if positive.mean == negative.mean:
        return
    reading = readout(with_sides(positive, negative), 0)
    assert reading.unit == "sides"
    assert read(reading, negative.mean) == pytest.approx(0, abs=1e-4)
    assert read(reading, positive.mean) == pytest.approx(1, abs=1e-4)
    way = abs(positive.mean - negative.mean)
    below, above = NormalDist(0, negative.std / way), NormalDist(1, positive.std / way)
    assert reading.threshold is not None and 0 <= reading.threshold <= 1
    # Densities may cross outside the means alone; then the threshold is half way.
    apart = [math.copysign(1, below.pdf(at) - above.pdf(at)) for at in (0.0, 1.0)]
    if apart == [1, -1]:
        near, far = below.pdf(reading.threshold), above.pdf(reading.threshold)
        assert near == pytest.approx(far, rel=1e-3, abs=1e-12)


@given(spreads, spreads, numbers)
def test_turning_the_sides_turns_the_reading(
    positive: Spread, negative: Spread, projection: float
) -> None:
    if positive.mean == negative.mean:
        return
    reading, turned = (
        readout(with_sides(*sides), 0) for sides in ((positive, negative), (negative, positive))
    )
    assert reading.threshold is not None and turned.threshold is not None
    assert turned.threshold == pytest.approx(1 - reading.threshold, abs=1e-6)
    assert read(turned, projection) == pytest.approx(1 - read(reading, projection), abs=1e-3)


def test_without_two_sides_the_projection_stays_as_it_is() -> None:
    reading = readout(with_sides(None, Spread(mean=2.0, std=1.0)), 0)
    assert (reading.unit, reading.middle, reading.threshold) == (
        "activation",
        0.0,
        None,
    )
    assert read(reading, 3.5) == pytest.approx(3.5)


def test_sites_are_canonical_and_the_layer_is_the_best_of_the_recommended() -> None:
    vector = make_vector(layers=(0, 2), site="resid_pre")
    assert [reading.site for reading in readouts(vector, (0, 2))] == [
        Site(0, "resid_pre"),
        Site(1, "resid_post"),
    ]
    better = msgspec.structs.replace(vector.metadata.statistics[1], separability=0.99)
    metadata = msgspec.structs.replace(
        vector.metadata,
        statistics=(vector.metadata.statistics[0], better),
        recommended=msgspec.structs.replace(vector.metadata.recommended, layers=(0, 2)),
    )
    assert [reading.layer for reading in readouts(SteeringVector(metadata, vector.directions))] == [
        2
    ]


def test_what_cannot_be_read_is_refused() -> None:
    vector = make_vector()
    with pytest.raises(VectorError, match="no layer 1"):
        readouts(vector, (1,))
    with pytest.raises(VectorError, match="zero at layer 0"):
        readouts(SteeringVector(vector.metadata, np.zeros_like(vector.directions)))
    same = Spread(mean=1.0, std=1.0)
    with pytest.raises(VectorError, match="no units"):
        readout(with_sides(same, same), 0)
