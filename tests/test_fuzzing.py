"""Every reader, on files that went wrong: a result or an error for the user, and nothing else.

`make fuzz` does the same for as long as one likes, led by what code an input reaches.
"""

from __future__ import annotations

import json
import struct
import zipfile
from io import BytesIO
from pathlib import Path
from random import Random

import pytest
import torch
from fuzzing.limits import Tally
from fuzzing.mutations import mutated
from fuzzing.readers import Target, targets

from steer.base.errors import SteerError
from steer.formats.registry import registry

N = 250
OURS = (
    "vector", "recipe", "includes", "spec", "lock", "signature", "key", "journal", "map",
    "evidence", "contrasts", "activations",
)  # fmt: skip
FORMATS = tuple(each.name for each in registry() if each.read is not None)
READERS = (*OURS, *FORMATS)


@pytest.fixture
def every(tmp_path: Path) -> dict[str, Target]:
    targets_found = targets(tmp_path)
    assert set(targets_found) == set(READERS)
    return targets_found


@pytest.mark.parametrize("name", READERS)
def test_what_is_mutated_is_read_or_refused(
    name: str, every: dict[str, Target], tmp_path: Path
) -> None:
    target, rng = every[name], Random(0)
    tally = Tally(target, tmp_path)
    for _ in range(N):
        data = mutated(rng, rng.choice(target.seeds), target.seeds, target.kind or name)
        defect = tally.add(data)
        if defect:
            raise AssertionError(f"{name}: {data!r}") from defect
    # Mutations that never pass the door test nothing behind it; a checksum is such a door.
    assert tally.n_read < N
    assert tally.n_read or name in FORMATS


def many_at_one_place(kind: str) -> bytes:
    """A file of 4 MB whose thousand tensors would be 4 GB."""
    body, count, width = bytes(4_000_000), 1_000, 1_000_000
    if kind == "gguf":
        head = b"GGUF" + struct.pack("<IQQ", 3, count, 0)
        for number in range(count):
            name = f"direction.{number}".encode()
            head += struct.pack("<Q", len(name)) + name + struct.pack("<IQIQ", 1, width, 0, 0)
        return head + bytes(-len(head) % 32) + body
    entry = {"dtype": "F32", "shape": [width], "data_offsets": [0, 4 * width]}
    header = json.dumps({f"layer.{number}": entry for number in range(count)}).encode()
    return struct.pack("<Q", len(header)) + header + body


def torch_file(value: object) -> bytes:
    buffer = BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def packed(data: bytes) -> bytes:
    """The same archive, made smaller."""
    buffer = BytesIO()
    with (
        zipfile.ZipFile(BytesIO(data)) as old,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    return buffer.getvalue()


def without_a_name() -> bytes:
    """An archive with a member of no name."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(""), b"")
    return buffer.getvalue()


SHARED = torch.zeros(1_000_000)
#: What was a defect, once.
DEFECTS = {
    "gguf: tensors at one place": ("llama.cpp", many_at_one_place("gguf")),
    "safetensors: tensors at one place": ("safetensors", many_at_one_place("safetensors")),
    "pt: a number without end": ("pt", torch_file(torch.ones(1).expand(90_000_000))),
    "pt: one tensor at many layers": (
        "pt",
        torch_file(dict.fromkeys(map(str, range(200)), SHARED)),
    ),
    "pt: a bomb": ("pt", packed(torch_file(torch.zeros(90_000_000)))),
    "npz: a member without a name": ("npz", without_a_name()),
    "svec: empty lists": ("ibm-svec", b'{"directions":{"1":[' + b"[]," * 4_000_000 + b"0]}}"),
    "ster: texts": ("ster", b'{"product":"ster","x":[' + b'"ab",' * 3_000_000 + b"0]}"),
    "recipe: a number of 5,000 digits": ("recipe", b"[generation]\nseed = " + b"9" * 5000),
    "spec: a layer of 5,000 digits": ("spec", b"x@" + b"9" * 5000),
    "spec: a name too long for a file": ("spec", b"./" + b"a" * 300),
    "spec: the home of nobody": ("spec", b"~no-such-user/x"),
}


@pytest.mark.parametrize(("name", "data"), DEFECTS.values(), ids=DEFECTS)
def test_what_once_was_a_defect(
    name: str, data: bytes, every: dict[str, Target], tmp_path: Path
) -> None:
    tally = Tally(every[name], tmp_path)
    assert tally.add(data) is None


def test_a_defect_is_told(tmp_path: Path) -> None:
    """Of the three kinds; or none of the above could fail."""

    def read(data: bytes, folder: Path) -> object:
        if data == b"crash":
            raise ZeroDivisionError
        if data == b"memory":
            return len(b"x" * 300_000_000)
        if data == b"refused":
            raise SteerError("no")
        while data == b"hang":
            pass
        return data

    tally = Tally(Target(read, []), tmp_path, seconds=1)
    kinds = {data: type(tally.add(data)).__name__ for data in (b"crash", b"memory", b"hang")}
    assert kinds == {
        b"crash": "ZeroDivisionError",
        b"memory": "TooBigError",
        b"hang": "TooSlowError",
    }
    assert tally.add(b"refused") is None and tally.add(b"good") is None
    assert (tally.n, tally.n_read) == (5, 2)
