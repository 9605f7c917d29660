"""Files of other tools as strangers may have made them: an error for the user, and nothing else."""

from __future__ import annotations

import json
import struct
import tempfile
import tracemalloc
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from conftest import make_vector
from foreign_files import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st

from steer.base.errors import SteerError
from steer.formats import gguf, reading, writing
from steer.formats.imported import ImportedVector
from steer.formats.registry import builtin
from steer.formats.source import Options
from steer.models import torch_files
from steer.steering.operation import Coefficient
from steer.steering.steers import Steer
from steer.vectors.provenance import ModelIdentity
from steer.vectors.vector import SteeringVector

ROW = np.arange(8, dtype=np.float32)
MEMORY = 200_000_000
#: Examples of one suffix, and the options with which they are read.
SUFFIXES = {"gguf": ".gguf", "npz": ".npz", "npy": ".npy", "safetensors": ".safetensors"}
SUFFIXES |= {"json": ".json", "svec": ".svec", "pt": ".pt", "f32": ".f32", "spipe": ".spipe"}
GOOD = {
    kind: next(
        each.files[each.main]
        for each in examples()
        if each.main.endswith(suffix) and len(each.files) == 1
    )
    for kind, suffix in SUFFIXES.items()
    if kind != "f32"
}


def read(kind: str, data: bytes) -> ImportedVector:
    """The bytes as a file of this kind."""
    with tempfile.TemporaryDirectory(prefix="steer-") as folder:
        path = Path(folder) / f"x{SUFFIXES[kind]}"
        path.write_bytes(data)
        options = Options(layers=(1, 2)) if kind == "npy" else Options()
        return reading.read(path, options, torch_files.read).imported


READERS = tuple(GOOD)


def read_or_refused(kind: str, data: bytes) -> None:
    """Reads it, or raises a SteerError; what is read is sound."""
    try:
        content = read(kind, data)
    except SteerError as error:
        assert str(error)
        return
    widths = {row.shape for row in content.directions.values()}
    assert len(widths) == 1
    assert all(np.isfinite(row).all() for row in content.directions.values())
    assert all(0 <= number < 10_000 for number in content.directions)


@pytest.mark.parametrize("kind", READERS)
@given(noise=st.binary(max_size=300))
@settings(max_examples=100)
def test_noise(kind: str, noise: bytes) -> None:
    read_or_refused(kind, noise)
    read_or_refused(kind, GOOD[kind][:24] + noise)


@pytest.mark.parametrize("kind", READERS)
@given(data=st.data())
@settings(max_examples=150)
def test_changed_cut_and_spliced_files(kind: str, data: st.DataObject) -> None:
    good = bytearray(GOOD[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(good) - 1))
        change = data.draw(st.sampled_from(["byte", "word", "cut", "insert", "repeat"]))
        if change == "byte":
            good[at] = data.draw(st.integers(0, 255))
        elif change == "word":
            word = data.draw(st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]))
            good[at : at + 8] = struct.pack("<Q", word)
        elif change == "cut":
            del good[max(at, 1) :]
        elif change == "insert":
            good[at:at] = data.draw(st.binary(max_size=20))
        else:
            good[at:at] = good[at : at + 40]
    read_or_refused(kind, bytes(good))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([10**400, "1", "directions", -1]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=3) | st.sampled_from(["0", "1", "07"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "directions": json_values | st.dictionaries(st.sampled_from(["1", "2"]), json_values),
            "model_type": json_values,
            "num_heads": json_values,
            "product": st.just("ster"),
            "schema_version": st.just(1) | json_values,
            "hidden_size": json_values,
            "vectors": json_values
            | st.lists(
                st.fixed_dictionaries({"layer": json_values, "values": json_values}), max_size=3
            ),
        },
    )
)
@settings(max_examples=200)
def test_json_of_any_shape(raw: dict[str, object]) -> None:
    read_or_refused("json", json.dumps(raw).encode())


gguf_keys = st.sampled_from(
    ["general.architecture", "controlvector.layer_count", "general.alignment", "x"]
)
gguf_values = st.tuples(gguf_keys, st.integers(0, 14), st.binary(max_size=24))
gguf_tensors = st.tuples(
    st.sampled_from(["direction.0", "direction.1", "direction.9999999", "direction.", "w", ""]),
    st.lists(st.sampled_from([0, 1, 4, 2**40, 2**64 - 1]), max_size=5),
    st.integers(0, 3),
    st.sampled_from([0, 4, 32, 2**40, 2**64 - 1]),
)


@given(st.lists(gguf_values, max_size=4), st.lists(gguf_tensors, max_size=4), st.binary())
@settings(max_examples=200)
def test_gguf_of_any_structure(
    values: list[tuple[str, int, bytes]],
    tensors: list[tuple[str, list[int], int, int]],
    body: bytes,
) -> None:
    def text(word: str) -> bytes:
        return struct.pack("<Q", len(word)) + word.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values))
    for key, kind, raw in values:
        head += text(key) + struct.pack("<I", kind) + raw
    for name, shape, kind, offset in tensors:
        head += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        head += struct.pack("<IQ", kind, offset)
    read_or_refused("gguf", head + body)


safetensors_entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "F16", "I64", "x"]) | json_values,
        "shape": st.lists(st.sampled_from([0, 1, 2, 4, -1, 2**40]), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(-2, 40), min_size=2, max_size=2) | json_values,
    },
)


@given(
    st.dictionaries(
        st.sampled_from(["layer.1", "layer2.v", "v", "__metadata__", "../x"]),
        safetensors_entries | json_values | st.just({"cfg": '{"method": "pca", "coeff": 1e999}'}),
        max_size=3,
    ),
    st.integers(0, 40),
)
@settings(max_examples=200)
def test_safetensors_of_any_header(header: dict[str, object], length: int) -> None:
    raw = json.dumps(header).encode()
    read_or_refused("safetensors", struct.pack("<Q", len(raw)) + raw + bytes(length))


def bomb() -> bytes:
    """A small archive that unpacks to a gigabyte."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("directions.npy", "layers.npy", "site.npy"):
            with archive.open(name, "w") as file:
                for _ in range(350):
                    file.write(bytes(1_000_000))
    return buffer.getvalue()


def npy_claiming(shape: str) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(40)


HOSTILE = {
    "gguf: 2^63 tensors": ("gguf", b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0)),
    "gguf: a text of 2^62 bytes": ("gguf", b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62)),
    "gguf: an array of 2^60 numbers": (
        "gguf",
        b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 12, 2**60),
    ),
    "npy: a terabyte": ("npy", npy_claiming("1000000, 1000000")),
    "npy: overflow": ("npy", npy_claiming(", ".join(["4294967296"] * 4))),
    "npy: code": ("npy", npy_claiming("__import__('os').getpid()")),
    "npz: a bomb": ("npz", bomb()),
    "json: deep": ("json", b"[" * 200_000),
    "json: a long number": ("json", b'{"directions": {"1": [' + b"9" * 100_000 + b"]}}"),
    "json: keys without end": (
        "json",
        json.dumps({str(n): 0 for n in range(100_000)}).encode(),
    ),
    "safetensors: a header of 2^63": ("safetensors", struct.pack("<Q", 2**63) + b"{}"),
}


@pytest.mark.parametrize("kind, data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_refused_without_much_memory(kind: str, data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(SteerError):
            read(kind, data)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


@given(
    st.dictionaries(
        st.integers(1, 9999),
        st.lists(
            st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3
        ),
        min_size=1,
        max_size=5,
    ).filter(lambda rows: any(map(any, rows.values())))  # a file that adds nothing is refused
)
@example({1: [0.0, -0.0, 1e-45]})
@settings(max_examples=50)
def test_every_format_keeps_every_number(rows: dict[int, list[float]]) -> None:
    directions = {layer: np.array(row, np.float32) for layer, row in sorted(rows.items())}
    model = ModelIdentity(
        id="x", architecture="X", d_model=3, n_layers=10_000, fingerprint="0" * 16
    )
    vector = make_vector(model, layers=tuple(directions))
    vector = SteeringVector(vector.metadata, np.stack(list(directions.values())))
    steer = Steer(vector, Coefficient(1.0), vector.metadata.layers)
    for each in builtin():
        if each.writer is None:
            continue
        with tempfile.TemporaryDirectory(prefix="steer-") as folder:
            path = Path(folder) / f"x{each.suffixes[0]}"
            path.write_bytes(writing.write(steer, path, format=each.name).data)
            imported = reading.read(path, Options(), torch_files.read).imported
        assert list(imported.directions) == sorted(rows)
        for layer, row in directions.items():
            assert np.array_equal(imported.directions[layer].view(np.uint32), row.view(np.uint32))


def test_gguf_keeps_values_of_every_type() -> None:
    values = {"a": "text", "b": 7, "c": 0.5, "d": True}
    parsed = gguf.parse(gguf.build(values, {"direction.1": ROW}), "file")
    assert {key: value.value for key, value in parsed.values.items()} == values
