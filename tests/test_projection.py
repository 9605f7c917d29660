"""The file's units, and thresholds in them."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
import tiny
from conftest import make_vector
from hypothesis import given
from hypothesis import strategies as st
from recorded import extract, pairs

from steer.base.errors import SiteError, UsageError, VectorError
from steer.hooks.gates import prompt_values
from steer.steering.operation import ADD, Coefficient, Operation
from steer.steering.projection import (
    Gate,
    Projection,
    Threshold,
    gate,
    guard,
    most_separable,
    projection,
    reading_layer,
)
from steer.steering.spec import parse, parse_read, parse_threshold
from steer.steering.steers import Steer, resolve
from steer.vectors.metadata import Metadata, Spread
from steer.vectors.provenance import Read
from steer.vectors.vector import SteeringVector

PAIRS = [(f"w{3 + i} w{20 + i} w{7 + i}", f"w{30 + i} w{9 + i} w{40 + i}") for i in range(12)]


def with_sides(low: float, high: float, *, std: tuple[float, float] = (1, 1)) -> SteeringVector:
    """A vector whose sides lie at `low` and `high` at each layer."""
    vector = make_vector()
    rows = tuple(
        msgspec.structs.replace(row, negative=Spread(low, std[0]), positive=Spread(high, std[1]))
        for row in vector.metadata.statistics
    )
    return tiny.renamed(vector, statistics=rows)


def without_sides() -> SteeringVector:
    vector = make_vector()
    rows = tuple(
        msgspec.structs.replace(row, negative=None, positive=None)
        for row in vector.metadata.statistics
    )
    return tiny.renamed(vector, statistics=rows)


@given(st.floats(-100, 100), st.floats(-100, 100))
def test_the_sides_are_0_and_1(low: float, high: float) -> None:
    if abs(high - low) < 1e-3:
        return
    read = Projection(with_sides(low, high), 0)
    for raw, expected in ((low, 0.0), (high, 1.0), ((low + high) / 2, 0.5)):
        value = raw * float(read.direction @ read.weights) + read.offset
        assert value == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("positions", ["mean", "last"])
def test_texts_of_the_two_sides_read_1_and_0_on_average(positions: str) -> None:
    """From the recording to the gate: the same tokens, the same units."""
    model = tiny.model("llama")
    vector = extract(model, pairs(*PAIRS), positions=positions)
    for layer in vector.metadata.layers:
        gate_made = gate(parse_threshold(f"x@{layer}>0.5"), vector)
        assert gate_made.pooling == positions
        steer = resolve(parse("x"), vector, gate_made)
        for side, expected in ((0, 1.0), (1, 0.0)):
            texts = [model.encode(pair[side]) for pair in PAIRS]
            (values,) = prompt_values(model, [steer], texts).values()
            assert np.mean(values) == pytest.approx(expected, abs=1e-3)


@given(st.floats(0.05, 3), st.floats(0.05, 3))
def test_auto_makes_the_fewest_errors_between_the_sides(low: float, high: float) -> None:
    """Against a search over all thresholds, two normal distributions with these spreads."""
    threshold = Projection(with_sides(0, 2, std=(2 * low, 2 * high)), 0).auto_threshold

    def errors(x: float) -> float:
        return 1 - 0.5 * math.erf(x / low / 2**0.5) + 0.5 * math.erf((x - 1) / high / 2**0.5)

    best = min(errors(x) for x in np.linspace(0, 1, 201))
    assert 0 < threshold < 1
    if errors(threshold) > best + 1e-4:  # no crossing between the means: half way
        assert threshold == 0.5


def test_auto_is_half_way_between_alike_sides() -> None:
    # The last are no numbers of activations: a stranger's file may have them.
    for std in ((1.0, 1.0), (0.0, 0.0), (0.0, 2.0), (1e-200, 1.0), (-1.0, 1.0), (1.0, 1e300)):
        assert Projection(with_sides(-4, 6, std=std), 0).auto_threshold == 0.5


def test_a_guard_looks_where_its_file_has_units() -> None:
    def pooling(typed: str, positions: str) -> str:
        vector = tiny.renamed(make_vector(), read=Read(positions=positions))
        return guard(parse_threshold(typed), vector, "stop").pooling

    for positions, expected in (("mean", "token"), ("last", "last"), ("-1", "last")):
        assert pooling("calm>0.5", positions) == expected
        assert pooling("calm>0.5/token", positions) == "token"
        assert pooling("calm>0.5/last", positions) == "last"
        with pytest.raises(UsageError, match="mean"):
            pooling("calm>0.5/mean", positions)


def test_reads_near_where_the_file_recommends_and_texts_are_told_apart() -> None:
    vector = make_vector(layers=(0, 1, 2))

    def metadata(separability: tuple[float | None, ...], recommended: int) -> Metadata:
        statistics = tuple(
            msgspec.structs.replace(row, separability=value)
            for row, value in zip(vector.metadata.statistics, separability, strict=True)
        )
        chosen = msgspec.structs.replace(vector.metadata.recommended, layers=(recommended,))
        return msgspec.structs.replace(vector.metadata, statistics=statistics, recommended=chosen)

    assert reading_layer(metadata((0.6, 0.9, 0.99), 0)) == 2
    assert reading_layer(metadata((1.0, 0.99, 0.87), 2)) == 1
    assert reading_layer(metadata((1.0, 0.99, 1.0), 1)) == 1
    assert reading_layer(metadata((None, None, None), 1)) == 1
    assert most_separable(metadata((0.6, 0.9, 0.99), 0), (0, 1)) == 1
    assert projection(parse_read("calm"), vector).layer == 0
    assert projection(parse_read("calm@2"), vector).layer == 2


def test_what_has_no_units_says_so() -> None:
    with pytest.raises(VectorError, match="does not say where its two sides lie"):
        Projection(without_sides(), 0)
    with pytest.raises(VectorError, match="same mean"):
        Projection(with_sides(3, 3), 0)
    with pytest.raises(VectorError, match="no layer 9"):
        projection(parse_read("calm@9"), make_vector())
    zero = SteeringVector(make_vector().metadata, np.zeros((2, 8), dtype=np.float32))
    with pytest.raises(VectorError, match="zero at layer 0"):
        Projection(zero, 0)


def test_levels_by_name_are_those_of_the_file() -> None:
    vector = with_sides(-4, 6)
    levels = {
        name: Steer(vector, Coefficient(1), (0,), op=Operation("clamp", name)).level(0)
        for name in ("neg", "mid", "pos", 2.5)
    }
    assert levels == {"neg": -4, "mid": 1, "pos": 6, 2.5: 2.5}
    with pytest.raises(VectorError, match="two sides"):
        Steer(without_sides(), Coefficient(1), (0,), op=Operation("cap", "pos"))
    Steer(without_sides(), Coefficient(1), (0,), op=Operation("cap", 3.0))


@pytest.mark.parametrize("text", ["x:clamp=0", "x:15%,norm=keep", "x:rotate=9"])
def test_low_rank_edits_are_only_added(text: str) -> None:
    vector = tiny.low_rank_steer(tiny.model("llama")).vector
    with pytest.raises(VectorError, match="low-rank edit"):
        resolve(parse(text), vector)


def test_every_write_takes_one_layers_vector() -> None:
    vector = make_vector(layers=(0, 2))
    with pytest.raises(VectorError, match="one layer") as caught:
        resolve(parse("calm:ablate=writes@all"), vector)
    assert caught.value.hint == "name one: calm:ablate=writes@0"
    assert resolve(parse("calm:ablate=writes"), vector).layers == (0,)


def test_a_gate_of_tokens_reads_no_later_than_its_steer_acts() -> None:
    vector = make_vector(layers=(0, 1, 2))

    def gated(layer: int, pooling: str = "token", steered: str = "calm@1") -> Steer:
        condition = Threshold(Projection(vector, layer), True, 0.5)
        return resolve(parse(steered), vector, Gate(condition, pooling))  # type: ignore[arg-type]

    assert gated(0).gate is not None
    assert gated(1).gate is not None
    assert gated(2, "mean").gate is not None
    for late in (lambda: gated(2), lambda: gated(0, steered="calm:ablate=writes@1")):
        with pytest.raises(SiteError, match="behind") as caught:
            late()
        assert caught.value.hint is not None
        assert "/mean" in caught.value.hint


def test_a_file_decides_what_is_left_out() -> None:
    vector = make_vector(layers=(0, 2))
    steer = resolve(parse("calm:ablate"), vector)
    assert (steer.coefficient, steer.layers, steer.op) == (
        Coefficient(1.0), (0,), Operation("ablate")
    )  # fmt: skip
    assert resolve(parse("calm@all"), vector).layers == (0, 2)
    assert resolve(parse("calm"), vector).op == ADD
