"""A vector file can recommend any op, and what is typed completes or replaces it."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import pytest
import tiny
from conftest import make_vector

from steer.base.errors import VectorError
from steer.steering import spec
from steer.steering.operation import ADD, Coefficient, Operation
from steer.steering.scope import Scope
from steer.steering.steers import resolve
from steer.vectors import store
from steer.vectors.metadata import Recommendation, decode, encode
from steer.vectors.vector import SteeringVector

ABLATE = Operation("ablate")
WRITES = Operation("ablate", writes=True)


def vector_with(op: str, coefficient: float = 1.0) -> SteeringVector:
    vector = make_vector(layers=(1, 3))
    recommended = Recommendation(layers=(1,), coefficient=coefficient, evidence="none", op=op)
    metadata = msgspec.structs.replace(vector.metadata, recommended=recommended)
    return SteeringVector(metadata, vector.directions)


@pytest.mark.parametrize(
    ("recommended", "typed", "op", "coefficient"),
    [
        ("ablate", "x", ABLATE, 4.0),
        ("ablate", "x@3", ABLATE, 4.0),
        ("ablate", "x:0.5", ABLATE, 2.0),
        ("ablate", "x:0.5@3", ABLATE, 0.5),
        ("add", "x:-1", ADD, -4.0),
        ("add", "x:-1@1", ADD, -1.0),
        ("add", "x:-1@all", ADD, -1.0),
        ("ablate", "x:recommended/response", ABLATE, 4.0),
        ("ablate", "x:add", ADD, 1.0),
        ("ablate", "x:2,add", ADD, 2.0),
        ("ablate=writes", "x", WRITES, 4.0),
        ("ablate", "x:ablate=writes", WRITES, 4.0),
        ("cap=2.5", "x", Operation("cap", 2.5), 4.0),
        ("add", "x", ADD, 4.0),
        ("add", "x:ablate", ABLATE, 1.0),
        ("norm=keep", "x", Operation(keep_norm=True), 4.0),
    ],
)
def test_what_is_typed_completes_or_replaces_the_recommendation(
    recommended: str, typed: str, op: Operation, coefficient: float
) -> None:
    steer = resolve(spec.parse(typed), vector_with(recommended, 4.0))
    assert (steer.op, steer.coefficient) == (op, Coefficient(coefficient))


def test_minus_one_is_the_opposite_of_no_number_and_1_is_the_same() -> None:
    vector = vector_with("add")
    share = msgspec.structs.replace(
        vector.metadata.recommended, coefficient=0.101, unit="residual", scope="response"
    )
    vector = tiny.renamed(vector, recommended=share)
    plain, same, opposite, twice = (
        resolve(spec.parse(typed), vector) for typed in ("x", "x:1", "x:-1", "x:2")
    )
    assert same == plain and plain.scope == Scope("response")
    assert opposite == replace(plain, coefficient=Coefficient(-0.101, "residual"))
    assert twice.coefficient == Coefficient(0.202, "residual")
    assert resolve(spec.parse("x:ablate"), vector).scope == Scope()
    assert decode(encode(vector.metadata), "file") == vector.metadata


def test_a_file_keeps_the_op_and_other_files_keep_their_bytes() -> None:
    sealed = vector_with("ablate=writes").sealed()
    again = store.from_bytes(store.to_bytes(sealed), "file")
    assert again.metadata.recommended.op == "ablate=writes"
    plain = make_vector().metadata
    assert json.loads(encode(plain))["recommended"]["op"] == "add"
    assert encode(decode(encode(plain), "file")) == encode(plain)


def test_an_unknown_op_is_refused_when_it_is_used() -> None:
    with pytest.raises(VectorError, match="does not know"):
        resolve(spec.parse("x"), vector_with("reverse=3"))
    assert resolve(spec.parse("x:add"), vector_with("reverse=3")).op == ADD


@pytest.mark.parametrize("op", ["", "a b", "add\n", "x" * 90, "ABLATE"])
def test_what_cannot_be_an_op_is_refused_when_the_file_is_read(op: str) -> None:
    text = encode(make_vector().metadata).replace('"op":"add"', f'"op":{json.dumps(op)}')
    with pytest.raises(VectorError, match="not an op"):
        decode(text, "file")
