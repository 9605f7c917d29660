"""Files of other tools as strangers may have made them: an error for the user, and nothing else."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from steer.base.errors import SteerError
from steer.base.strict_json import load_strict_json
from steer.formats import arrays, bare, controlvector, gguf, ster, svec
from steer.formats.foreign import Foreign

WRITTEN = Path(__file__).parent / "data" / "foreign"
ROW = np.arange(8, dtype=np.float32)
GGUF = controlvector.write({1: ROW, 2: -ROW}, model="llama", name="calm")
NPZ = arrays.write_npz({1: ROW, 2: -ROW}, site="resid_post")
MEMORY = 200_000_000


def _npy() -> bytes:
    made = BytesIO()
    np.save(made, np.stack([ROW, ROW]))
    return made.getvalue()


def _read_json(data: bytes) -> Foreign:
    raw = load_strict_json(data.decode(errors="replace"), "file")
    return svec.read(raw, "file") if isinstance(raw, dict) and "directions" in raw else _ster(raw)


def _ster(raw: object) -> Foreign:
    return ster.read(raw, "file")


READERS = {
    "gguf": lambda data: controlvector.read(data, "file"),
    "npz": lambda data: arrays.read_npz(data, "file"),
    "npy": lambda data: bare.table(
        arrays.parse(data, "file"), "file", format="npy", layers=(1, 2), row=None
    ),
    "safetensors": lambda data: bare.read_safetensors(data, "file", layers=None, row=None),
    "json": _read_json,
}
GOOD = {
    "gguf": GGUF,
    "npz": NPZ,
    "npy": _npy(),
    "safetensors": (WRITTEN / "steering-lite.safetensors").read_bytes(),
    "json": svec.write({1: ROW}, model="llama"),
}


def read_or_refused(kind: str, data: bytes) -> None:
    """Reads it, or raises a SteerError; what is read is sound."""
    try:
        found = READERS[kind](data)
    except SteerError as error:
        assert str(error)
        return
    widths = {row.shape for row in found.rows.values()}
    assert len(widths) == 1
    assert all(np.isfinite(row).all() for row in found.rows.values())
    assert all(0 <= number < 10_000 for number in found.rows)


@pytest.mark.parametrize("kind", READERS)
@given(noise=st.binary(max_size=300))
@settings(max_examples=100)
def test_noise(kind: str, noise: bytes) -> None:
    read_or_refused(kind, noise)
    read_or_refused(kind, GOOD[kind][:24] + noise)


@pytest.mark.parametrize("kind", READERS)
@given(data=st.data())
@settings(max_examples=300)
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
@settings(max_examples=400)
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
@settings(max_examples=400)
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
@settings(max_examples=400)
def test_safetensors_of_any_header(header: dict[str, object], length: int) -> None:
    raw = json.dumps(header).encode()
    read_or_refused("safetensors", struct.pack("<Q", len(raw)) + raw + bytes(length))


def bomb() -> bytes:
    """A small archive that unpacks to a gigabyte."""
    made = BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("directions.npy", "layers.npy", "site.npy"):
            with archive.open(name, "w") as file:
                for _ in range(350):
                    file.write(bytes(1_000_000))
    return made.getvalue()


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
            READERS[kind](data)
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
    )
)
@example({1: [0.0, -0.0, 1e-45]})
def test_every_format_keeps_every_number(rows: dict[int, list[float]]) -> None:
    made = {layer: np.array(row, np.float32) for layer, row in rows.items()}
    for found in (
        controlvector.read(controlvector.write(made, model="x", name="y"), "file", "repeng"),
        svec.read(json.loads(svec.write(made, model="x")), "file"),
        arrays.read_npz(arrays.write_npz(made, site="resid_post"), "file"),
    ):
        assert list(found.rows) == sorted(made)
        for layer, row in made.items():
            assert np.array_equal(found.rows[layer].view(np.uint32), row.view(np.uint32))


def test_gguf_bytes_depend_on_nothing_else() -> None:
    assert controlvector.write({2: -ROW, 1: ROW}, model="llama", name="calm") == GGUF
    assert gguf.parse(GGUF, "file").text("general.architecture") == "controlvector"
