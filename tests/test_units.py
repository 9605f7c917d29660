"""The unit of a readout: what the laws of its definition say."""

from __future__ import annotations

from statistics import NormalDist

import msgspec
import numpy as np
import pytest
from conftest import make_vector
from hypothesis import given
from hypothesis import strategies as st

from steer.errors import VectorError
from steer.metadata import Spread
from steer.sites import Site
from steer.units import Readout, readouts
from steer.vector import SteeringVector

numbers = st.floats(-1e3, 1e3).map(lambda value: round(value, 3))
spreads = st.builds(Spread, mean=numbers, std=st.floats(0.0, 50.0).map(lambda v: round(v, 3)))


def with_sides(positive: Spread | None, negative: Spread | None) -> SteeringVector:
    made = make_vector(layers=(0,))
    row = msgspec.structs.replace(made.metadata.statistics[0], positive=positive, negative=negative)
    metadata = msgspec.structs.replace(made.metadata, statistics=(row,))
    return SteeringVector(metadata, made.directions)


def read(readout: Readout, projection: float) -> float:
    return (projection - readout.zero) / readout.scale


@given(spreads, spreads)
def test_the_sides_are_0_and_1_and_the_threshold_is_as_wrong_on_both(
    positive: Spread, negative: Spread
) -> None:
    if positive.mean == negative.mean:
        return
    one = Readout(with_sides(positive, negative), 0)
    assert one.unit == "sides"
    assert read(one, negative.mean) == 0
    assert read(one, positive.mean) == pytest.approx(1)
    assert one.threshold is not None and one.error_rate is not None
    assert 0 <= one.threshold <= 1
    if positive.std + negative.std > 0.1:
        # In the unit, a side's deviation is its own over the distance of the means.
        wrong = [
            NormalDist().cdf((edge - mean) * abs(one.scale) / side.std) if side.std else 0.0
            for side, mean, edge in (
                (negative, one.threshold, 0.0),
                (positive, 1.0, one.threshold),
            )
        ]
        for side, share in zip((negative, positive), wrong, strict=True):
            if side.std > 0.1:
                assert share == pytest.approx(one.error_rate, abs=1e-6)


@given(spreads, spreads)
def test_turning_the_sides_turns_the_reading(positive: Spread, negative: Spread) -> None:
    one, turned = (
        Readout(with_sides(*sides), 0) for sides in ((positive, negative), (negative, positive))
    )
    if one.unit == "activation":
        return
    assert one.threshold is not None and turned.threshold is not None
    assert turned.threshold == pytest.approx(1 - one.threshold) or (
        positive.std == negative.std == 0
    )
    projection = negative.mean + 1
    assert read(turned, projection) == pytest.approx(1 - read(one, projection), abs=1e-6)


@pytest.mark.parametrize("side", [None, Spread(mean=2.0, std=1.0)])
def test_without_two_sides_the_projection_stays_as_it_is(side: Spread | None) -> None:
    one = Readout(with_sides(side, side), 0)
    assert (one.unit, one.zero, one.scale, one.middle) == ("activation", 0.0, 1.0, 0.0)
    assert one.threshold is None and one.error_rate is None


def test_the_axis_is_the_direction_at_length_1() -> None:
    vector = make_vector()
    one = Readout(vector, 2)
    assert np.linalg.norm(one.axis) == pytest.approx(1)
    assert vector.direction(2) @ one.axis == pytest.approx(np.linalg.norm(vector.direction(2)))


def test_sites_are_canonical_and_layers_are_the_best_of_the_recommended() -> None:
    vector = make_vector(layers=(0, 2), site="resid_pre")
    assert [one.site for one in readouts(vector, (0, 2))] == [
        Site(0, "resid_pre"),
        Site(1, "resid_post"),
    ]
    better = msgspec.structs.replace(vector.metadata.statistics[1], separability=0.99)
    metadata = msgspec.structs.replace(
        vector.metadata,
        statistics=(vector.metadata.statistics[0], better),
        recommended=msgspec.structs.replace(vector.metadata.recommended, layers=(0, 2)),
    )
    assert [one.layer for one in readouts(SteeringVector(metadata, vector.directions))] == [2]


def test_what_cannot_be_read_is_refused() -> None:
    vector = make_vector()
    with pytest.raises(VectorError, match="no layer 1"):
        readouts(vector, (1,))
    nothing = SteeringVector(vector.metadata, np.zeros_like(vector.directions))
    with pytest.raises(VectorError, match="zero at layer 0"):
        readouts(nothing)
