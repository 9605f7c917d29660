"""What strangers' bytes reach: each reader, as a user's command calls it, and files that it takes.

A reader returns what it made of the bytes or raises a SteerError; anything else is a defect.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np
import torch
from conftest import make_vector

from steer.base.errors import SteerError
from steer.contrasts import records
from steer.contrasts.contrast_files import read as read_contrasts
from steer.contrasts.contrasts import ContrastSource
from steer.fitting import activations
from steer.fitting.activations import Recording, open_kept
from steer.formats import arrays, reading, svec, writing
from steer.formats.reading import Told
from steer.models import torch_files
from steer.sharing import card, evidence, push
from steer.sharing.address import parse_folder, parse_vector
from steer.steering import named, recipe, spec
from steer.steering.steers import resolve
from steer.vectors import lock, store
from steer.vectors.provenance import Read
from steer.vectors.sites import Site
from steer.vectors.vector import SteeringVector

ROOT = Path(__file__).parents[2]
WRITTEN = ROOT / "tests" / "data" / "foreign"
ROW = np.linspace(-1, 2, 8).astype(np.float32)


@dataclass(frozen=True)
class Target:
    """A reader, and what it takes. The bytes lie in a file of the folder that it is given."""

    read: Callable[[bytes, Path], object]
    seeds: Sequence[bytes]


def chosen(data: bytes, *options: object) -> object:
    """One of them, always the same for the same bytes."""
    return options[zlib.crc32(data) % len(options)]


def put(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def vector_file(data: bytes, folder: Path) -> SteeringVector:
    """All that `list`, `show`, `verify` and `push` do with a file."""
    path = put(folder, "calm.safetensors", data)
    store.read_header(path)
    made = store.read(path)
    assert store.to_bytes(made)[8:] and np.isfinite(made.directions).all()
    card.index({made.name: made.metadata}, "hf://a/b", card.card("calm", made.metadata, "hf://a/b"))
    push.parcel(path)
    return made


def foreign(suffix: str, **told: object) -> Callable[[bytes, Path], object]:
    """`steer convert` of a file to one of ours, and to others' again."""

    def read(data: bytes, folder: Path) -> object:
        names = {".pt": (f"x{suffix}", "direction.pt", "v_layer_3.pt", "a_response_avg_diff.pt")}
        path = put(folder, str(chosen(data, *names.get(suffix, (f"x{suffix}",)))), data)
        layers = chosen(data, None, (1,), (1, 2)) if "layers" in told else None
        found = reading.read(path, Told(layers=layers), torch_files.read)  # type: ignore[arg-type]
        vector = reading.steering_vector(found, None, name="x").sealed()
        again = store.from_bytes(store.to_bytes(vector), "made")
        assert again.sha256 == vector.sha256
        for kind in writing.WRITTEN:
            try:
                writing.write(resolve(spec.parse("x:1@all"), vector), Path("x" + kind))
            except SteerError:
                continue
        return found

    return read


def recipe_file(data: bytes, folder: Path) -> object:
    """`steer recipe show`, with the vectors that lie here."""
    path = put(folder, "r.toml", data)
    read = recipe.read(path)
    text = recipe.to_toml([recipe.placed(one, path) for one in read.steers], read.generation)
    again = put(folder, "again.toml", text.encode())
    assert len(recipe.read(again).steers) == len(read.steers)
    with suppress(SteerError):  # there are no such vectors
        named.resolved(read.steers)
    return read


def spec_text(data: bytes, folder: Path) -> object:
    """Everything that stands behind -v, --when, --watch, and an address."""
    text = data.decode("utf-8", "surrogateescape")
    for parse in (spec.parse_condition, spec.parse_read, parse_folder, parse_vector):
        with suppress(SteerError):
            parsed = parse(text)
            assert str(parsed)
    typed = spec.parse(text)
    again = spec.parse(str(typed))
    assert again == typed, f"{typed!r} is read back as {again!r}"
    with suppress(SteerError):
        store.find(typed.reference)
    return typed


def lock_file(data: bytes, folder: Path) -> object:
    put(folder, lock.NAME, data)
    return [str(one) for one in lock.origins(folder).values()]


def measured(data: bytes, folder: Path) -> object:
    return evidence.read(put(folder, "eval.json", data))


def contrast_file(data: bytes, folder: Path) -> object:
    name = str(chosen(data, "c.jsonl", "c.json", "c.csv", "c.txt"))
    made = read_contrasts(ContrastSource(file=name), lambda name: records.records(data, name))
    assert len(made.sha256) == 64
    return made


def kept(data: bytes, folder: Path) -> object:
    with open_kept(put(folder, "acts.safetensors", data)) as found:
        return found.side(0, 0)


def _npy(array: np.ndarray) -> bytes:
    made = BytesIO()
    np.save(made, array)
    return made.getvalue()


def _pt(value: object) -> bytes:
    made = BytesIO()
    torch.save(value, made)
    return made.getvalue()


def _files(pattern: str, folder: Path = WRITTEN) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob(pattern))]


def _activations(folder: Path) -> bytes:
    metadata = make_vector().metadata
    identity = metadata.model
    recording = Recording(
        model=identity,
        contrast=metadata.contrast,
        reads=(Read(positions="mean"),),
        sites=(Site(0), Site(1)),
        n_positive=2,
        n_negative=2,
        paired=True,
    )
    with activations.resume(folder / "a", recording) as file:
        shape = (4, 2, identity.d_model)
        file.put(range(4), np.ones(shape, np.float32), np.ones(shape[:2], np.float32))
    return (folder / "a").read_bytes()


def _measured() -> bytes:
    value = {"value": 0.5, "low": 0.25, "high": 0.75}
    rows = [
        {"vector": None, "label": "unsteered", "kl": None, "preference": value},
        {"vector": "calm", "label": "calm", "kl": value, "preference": value},
    ]
    told = {"vectors": {"calm": "ab"}, "rows": rows, "command": "steer eval -v calm"}
    return json.dumps(told).encode()


def _ster() -> bytes:
    vectors = [{"layer": layer, "values": ROW.tolist()} for layer in (1, 2)]
    told = {"product": "ster", "schema_version": 1, "hidden_size": 8, "vectors": vectors}
    return json.dumps(told | {"model": "llama"}).encode()


def _lock() -> bytes:
    origins = {"calm": lock.Origin(url="hf://a/b/calm", sha256="ab", revision="cd")}
    return msgspec.json.encode({"format": 1, "vectors": origins})


def _low_rank() -> SteeringVector:
    made = make_vector()
    ones = np.ones((2, 1, 8), np.float32)
    metadata = msgspec.structs.replace(made.metadata, rank=1)
    return SteeringVector(metadata, made.directions, ones, ones.swapaxes(1, 2)).sealed()


SPECS = [
    "joyful", "joyful:1.5@14", "joyful:15%@10-20", "./a b/c.safetensors:2,norm=keep",
    "refusal:ablate=writes@5/response", "mood:clamp=pos@all", "x:2@8/not-4-9/skip-special/decay=20",
    "joyful:2/ramp=3", "x:rotate=20@1,3-5/on=0-3,8-", "troll@3<mid", "refusal>auto/last",
    "hf://team/vectors@v1/joyful:2", "s3://bucket/a/b:1@2", "sftp://ada:secret@host:22/x/y",
]  # fmt: skip
RECIPES = [
    'steers = ["formal:1.5@2", { vector = "./calm.safetensors:-1", sha256 = "' + "0" * 64 + '" }]',
    'include = ["again.toml"]\nwhen = "sea>0.2"\nsteers = ["joyful"]\n[generation]\nbeams = 2',
    "[generation]\ntemperature = 0.5\nstop = ['a']\nsystem = \"x\"\nmax_tokens = 3\n",
]


def targets(folder: Path) -> dict[str, Target]:
    """All of them. folder: for what is made on the way."""
    vectors = [store.to_bytes(one) for one in (make_vector().sealed(), _low_rank())]
    bare = _files("*.safetensors")
    row = {1: ROW, 2: -ROW}
    svecs = [svec.write(row, model="llama")]
    svecs.append(json.dumps({"directions": {"1": [ROW.tolist()]}, "model_type": "x"}).encode())
    tables = [_npy(ROW), _npy(np.stack([ROW, ROW])), _npy(ROW.astype("<f2"))]
    torches = [*_files("*.pt"), _pt(torch.ones(8)), _pt({"layer.1": torch.ones(8)})]
    put(folder, "direction_metadata.json", b'{"layer": 2}')
    whole = _files("*.jsonl", ROOT / "examples/contrasts")
    contrasts = [b"\n".join(file.splitlines()[:2]) for file in whole]
    contrasts += [b'positive,negative\n"a b",c\nd,e\n', b'["a", "b"]', b'{"text": "a", "label": 1}']
    return {
        "vector": Target(vector_file, vectors + _files("*.safetensors", ROOT / "vectors")),
        "gguf": Target(foreign(".gguf"), _files("*.gguf")),
        "svec": Target(foreign(".svec"), svecs),
        "ster": Target(foreign(".json"), [_ster()]),
        "npz": Target(foreign(".npz"), [arrays.write_npz(row, site="resid_post")]),
        "npy": Target(foreign(".npy", layers=True), tables),
        "safetensors": Target(foreign(".safetensors", layers=True), bare + vectors[:1]),
        "pt": Target(foreign(".pt", layers=True), torches),
        "recipe": Target(recipe_file, [text.encode() for text in RECIPES]),
        "spec": Target(spec_text, [text.encode() for text in SPECS]),
        "lock": Target(lock_file, [_lock()]),
        "evidence": Target(measured, [_measured()]),
        "contrasts": Target(contrast_file, contrasts),
        "activations": Target(kept, [_activations(folder)]),
    }
