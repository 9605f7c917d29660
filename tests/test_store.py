"""Vector files: byte-stable, whole or absent, and nothing wrong gets past the reader."""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path

import msgspec
import numpy as np
import pytest
from conftest import make_vector
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from steer.base import files
from steer.base.errors import SteerError, VectorError
from steer.vectors import store
from steer.vectors.metadata import FORMAT, decode, encode
from steer.vectors.vector import SteeringVector


def sealed_bytes() -> bytes:
    return store.to_bytes(make_vector().sealed())


def test_write_read_write_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    store.write(first, make_vector())
    store.write(second, store.read(first))
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes() == store.to_bytes(store.read(first))


def test_reading_gives_back_what_was_written(tmp_path: Path) -> None:
    vector = make_vector()
    written = store.write(tmp_path / "a.safetensors", vector)
    read = store.read(tmp_path / "a.safetensors")
    assert (
        read.metadata == written.metadata == store.read_header(tmp_path / "a.safetensors").metadata
    )
    assert np.array_equal(read.directions, vector.directions)


def test_a_transposed_array_is_written_as_it_is_hashed(tmp_path: Path) -> None:
    """safetensors alone writes it as it lies in memory: the file would be refused as altered."""
    vector = make_vector()
    factors = np.random.default_rng(1).normal(size=(2, 2, 3, 8)).astype(np.float32)
    edit = SteeringVector(
        msgspec.structs.replace(vector.metadata, rank=3),
        np.asfortranarray(vector.directions),
        factors[0],
        factors[1].swapaxes(1, 2),
    )
    store.write(tmp_path / "a.safetensors", edit)
    read = store.read(tmp_path / "a.safetensors")
    for name, tensor in edit.tensors.items():
        assert np.array_equal(read.tensors[name], tensor)


def test_numbers_cannot_be_changed_after_the_check() -> None:
    with pytest.raises(ValueError, match="read-only"):
        make_vector().directions[0, 0] = 1


@given(st.data())
def test_any_changed_byte_is_refused_or_changes_nothing(data: st.DataObject) -> None:
    good = sealed_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != good[at]))
    bad = good[:at] + bytes([byte]) + good[at + 1 :]
    try:
        read = store.from_bytes(bad, "file")
    except VectorError:
        return
    # White space in the header's padding is all that may differ unseen.
    assert store.to_bytes(read) == good


@given(st.integers(0, 10_000))
def test_any_shortened_file_is_refused(length: int) -> None:
    good = sealed_bytes()
    with pytest.raises(VectorError):
        store.from_bytes(good[: length % len(good)], "file")


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    for data in (noise, struct.pack("<Q", len(noise)) + noise):
        with pytest.raises(VectorError):
            store.from_bytes(data, "file")


def test_longer_files_are_refused() -> None:
    with pytest.raises(VectorError, match="bytes follow"):
        store.from_bytes(sealed_bytes() + b"\0", "file")


def test_another_safetensors_file_is_not_a_vector() -> None:
    with pytest.raises(VectorError, match="not a steering vector"):
        store.from_bytes(save({"weight": np.zeros(3, np.float32)}), "file")


def with_metadata(**changes: object) -> bytes:
    """A file whose JSON was edited, with all else right."""
    vector = make_vector().sealed()
    raw = json.loads(encode(vector.metadata)) | changes
    return save({"directions": vector.directions}, metadata={"steer": json.dumps(raw)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": FORMAT + 1, "needs": "9.9"}, "written in format 2"),
        ({"format": "one"}, "not a format"),
        ({"surprise": 1}, "surprise"),
        ({"layers": [2, 0]}, "rising"),
        ({"layers": [0, 9]}, "outside"),
        ({"layers": [0]}, "statistics"),
        ({"description": "other"}, "altered"),
        ({"site": "somewhere"}, "site"),
        ({"statistics": []}, "statistics"),
        ({"name": 3}, "name"),
    ],
)
def test_wrong_metadata_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(VectorError, match=message):
        store.from_bytes(with_metadata(**changes), "file")


def test_a_newer_format_names_the_version_that_reads_it() -> None:
    with pytest.raises(VectorError) as caught:
        store.from_bytes(with_metadata(format=FORMAT + 1, needs="9.9"), "file")
    assert "9.9" in str(caught.value.hint)


def test_repeated_keys_are_refused() -> None:
    text = encode(make_vector().metadata)
    with pytest.raises(VectorError, match="occurs twice"):
        decode(text[:-1] + ',"name":"other"}', "file")


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(number: float) -> None:
    vector = make_vector()
    directions = vector.directions.copy()
    directions[1, 3] = number
    with pytest.raises(VectorError, match="not finite"):
        SteeringVector(vector.metadata, directions)
    raw = save({"directions": directions}, metadata={"steer": encode(vector.metadata)})
    with pytest.raises(VectorError, match="not finite"):
        store.from_bytes(raw, "file")


def test_tensors_must_be_those_of_the_metadata() -> None:
    text = {"steer": encode(make_vector().sealed().metadata)}
    for tensors in (
        {"directions": np.zeros((2, 9), np.float32)},
        {"directions": np.zeros((2, 8), np.float16)},
        {"../../x": np.zeros((2, 8), np.float32)},
        {"directions": np.zeros((2, 8), np.float32), "more": np.zeros(1, np.float32)},
    ):
        with pytest.raises(VectorError, match="tensors"):
            store.from_bytes(save(tensors, metadata=text), "file")


def test_the_hash_covers_metadata_and_numbers() -> None:
    vector = make_vector()
    renamed = SteeringVector(
        msgspec.structs.replace(vector.metadata, name="other"), vector.directions
    )
    moved = SteeringVector(vector.metadata, vector.directions * np.float32(2))
    assert len({vector.sha256, renamed.sha256, moved.sha256}) == 3


def test_an_existing_file_is_kept_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    store.write(path, make_vector())
    before = path.read_bytes()
    with pytest.raises(SteerError, match="exists"):
        store.write(path, make_vector(seed=1))
    assert path.read_bytes() == before
    store.write(path, make_vector(seed=1), force=True)
    assert path.read_bytes() != before


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SteerError, match="No space left"):
        store.write(tmp_path / "a.safetensors", make_vector())
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    store.write(path, make_vector())
    before = path.read_bytes()

    def interrupted(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.write(path, make_vector(seed=1), force=True)
    assert [path] == list(tmp_path.iterdir())
    assert path.read_bytes() == before


def test_two_writers_cannot_overwrite_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    check = files.check_writable

    def then_another_writes(target: Path, *, force: bool) -> None:
        check(target, force=force)
        target.write_bytes(b"first")

    monkeypatch.setattr(files, "check_writable", then_another_writes)
    with pytest.raises(SteerError, match="exists"):
        files.write_atomic(path, b"second")
    assert path.read_bytes() == b"first"


@pytest.mark.parametrize(
    ("path", "message"),
    [("missing/a.safetensors", "does not exist"), ("a.bin", "end in .safetensors")],
)
def test_places_that_cannot_be_written(tmp_path: Path, path: str, message: str) -> None:
    with pytest.raises(SteerError, match=message):
        store.write(tmp_path / path, make_vector())


def test_names_are_found_in_vectors_then_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = tmp_path / "team"
    for folder in (tmp_path / "vectors", team):
        folder.mkdir()
    store.write(team / "calm.safetensors", make_vector())
    monkeypatch.setenv("STEER_VECTORS", str(team))
    assert store.find("calm") == team / "calm.safetensors"
    store.write(tmp_path / "vectors/calm.safetensors", make_vector())
    assert store.find("calm") == Path("vectors/calm.safetensors")
    assert store.find(str(team / "calm.safetensors")) == team / "calm.safetensors"


def test_an_unknown_name_brings_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "vectors").mkdir()
    store.write(tmp_path / "vectors/joyful.safetensors", make_vector())
    with pytest.raises(VectorError) as caught:
        store.find("joyfull")
    assert "'joyful'" in str(caught.value.hint)


@given(st.text())
def test_nothing_shown_can_drive_a_terminal(text: str) -> None:
    assert not any(character in files.shown(text) for character in "\x1b\x07\x08\r\x9b\u202e")


@given(st.text(st.characters(exclude_categories=())))
@example("\x9b2J\u202e\udcff\x7f")
def test_json_that_is_shown_says_the_same(text: str) -> None:
    escaped = files.escaped(json.dumps(text, ensure_ascii=False))
    assert files.shown(escaped) == escaped and json.loads(escaped) == text
    files.shown(text).encode()


@given(
    st.lists(
        st.floats(-(2.0**90), 2.0**90, width=32, allow_subnormal=False), min_size=8, max_size=8
    ),
    st.floats(0, 1e30, allow_nan=False, allow_subnormal=False),
)
@settings(max_examples=200)
def test_a_file_opens_if_and_only_if_its_norms_are_those_of_its_numbers(
    row: list[float], norm_shown: float
) -> None:
    numbers = np.array([row], dtype=np.float32)
    norm = float(np.linalg.norm(numbers.astype(np.float64)))
    for value in (norm, norm_shown):
        vector = _with_norm(numbers, value)
        data = store.to_bytes(vector.sealed())
        if numbers.any() and math.isclose(norm, value, rel_tol=1e-4):
            assert (store.from_bytes(data, "x").directions == numbers).all()
        elif not numbers.any() or not math.isclose(norm, value, rel_tol=1e-2):
            with pytest.raises(VectorError, match=r"zeros|contradicts itself"):
                store.from_bytes(data, "x")


def test_rows_of_zeros_open_only_where_the_metadata_say_so_and_others_are_not_zero() -> None:
    rows = np.array([np.zeros(8), np.arange(8)], dtype=np.float32)
    honest = make_vector()
    statistics = tuple(
        msgspec.structs.replace(statistic, norm=float(np.linalg.norm(row)))
        for statistic, row in zip(honest.metadata.statistics, rows, strict=True)
    )
    right = SteeringVector(msgspec.structs.replace(honest.metadata, statistics=statistics), rows)
    assert (store.from_bytes(store.to_bytes(right.sealed()), "x").directions == rows).all()
    wrong = SteeringVector(honest.metadata, rows)
    with pytest.raises(VectorError, match="layer 0 has length 0"):
        store.from_bytes(store.to_bytes(wrong.sealed()), "x")
    edit = np.zeros((2, 1, 8), np.float32)
    ranked = msgspec.structs.replace(honest.metadata, rank=1)
    nothing = SteeringVector(ranked, 0 * rows, edit, edit.reshape(2, 8, 1))
    with pytest.raises(VectorError, match="only zeros"):
        store.from_bytes(store.to_bytes(nothing.sealed()), "x")


def _with_norm(rows: np.ndarray, norm: float) -> SteeringVector:
    metadata = make_vector(layers=(0,)).metadata
    [only] = metadata.statistics
    statistics = (msgspec.structs.replace(only, norm=norm),)
    return SteeringVector(msgspec.structs.replace(metadata, statistics=statistics), rows)
