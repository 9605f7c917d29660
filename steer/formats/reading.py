"""Any file of another tool to a steering vector: its format, its layers, and its model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from steer.base.errors import ModelError, UsageError, VectorError
from steer.base.files import read_bytes, reported
from steer.base.strict_json import load_strict_json
from steer.fitting.fitting import rounded
from steer.formats import arrays, bare, controlvector, pickled, ster, svec
from steer.formats.foreign import MAX_BYTES, MAX_TEXT_BYTES, Foreign
from steer.vectors.metadata import LayerStatistics, Metadata, Recommended
from steer.vectors.provenance import ContrastSummary, Import, Method, ModelIdentity, Read
from steer.vectors.sites import format_layers, listed
from steer.vectors.vector import SteeringVector

#: Every format that is read, and the files that it comes in.
FORMATS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(controlvector.CONVENTIONS, (".gguf",)),
    **dict.fromkeys(svec.CONVENTIONS, (".svec",)),
    "ster": (".json",),
    "safetensors": (".safetensors",),
    "npy": (".npy",),
    "npz": (".npz",),
    **dict.fromkeys(
        ("caa", "refusal-direction", "persona-vectors", "axbench", "pt"), pickled.SUFFIXES
    ),
}
_PICKLES = (".pkl", ".pickle")

Unpickle = Callable[[Path], pickled.Loaded]


@dataclass(frozen=True, slots=True)
class Told:
    """What the user says of a file: its format, the layers of bare numbers, the row of a table, and
    what to add to the file's layer numbers in place of the format's convention."""

    format: str | None = None
    layers: tuple[int, ...] | None = None
    row: int | None = None
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What was read: the numbers, the hash of the file, and where layers lie, in words."""

    foreign: Foreign
    sha256: str
    offset: int

    @property
    def assumed(self) -> str:
        """One line for the user."""
        shift = f"layer here = number there {self.offset:+d}" if self.offset else "same numbers"
        why = self.foreign.convention if self.offset == self.foreign.shift else "--layer-offset"
        return f"read as {self.foreign.format}: {why} ({shift})"


def check(path: Path, told: Told) -> None:
    """Refuse what no reader takes, before anything is read.

    Raises:
        UsageError: a format that is none, or is not in such files; options that it has no use for.
        VectorError: a pickle, or a kind of file that is not known.
    """
    if told.format is not None and told.format not in FORMATS:
        raise UsageError(
            f"{told.format!r} is not a format that is read", hint=f"use one of {listed(FORMATS)}"
        )
    with reported(path):
        if not path.exists():
            raise VectorError(f"there is no file {path}")
    suffix = ".pt" if path.is_dir() else path.suffix.lower()
    if suffix in _PICKLES:
        raise VectorError(
            f"{path} is a pickle: reading it could run any code, so this does not",
            hint=pickled.EXPORT_HINT.format(name=path.name, stem=path.stem),
        )
    known = sorted({suffix for suffixes in FORMATS.values() for suffix in suffixes})
    if suffix not in known:
        raise VectorError(
            f"{path}: vectors are not read from {suffix or 'such'} files",
            hint=f"from {listed(known)}, and folders of layer_N.pt",
        )
    if told.format is not None and suffix not in FORMATS[told.format]:
        raise UsageError(f"{told.format} does not come in {suffix} files")


def read(path: Path, told: Told, unpickle: Unpickle) -> Found:
    """A file, or a folder of one file a layer.

    unpickle: reads torch's pickles; it is told to `check` first.

    Raises:
        VectorError: damaged, unknown, or not of the format.
        UsageError: what was told does not fit it.
    """
    check(path, told)
    if path.is_dir():
        files = pickled.layer_files(path)
        loaded = {layer: unpickle(file) for layer, file in files.items()}
        found = pickled.from_folder(loaded, path)
        return _found(found, b"".join(_bytes(file) for file in files.values()), told)
    suffix = path.suffix.lower()
    if suffix in pickled.SUFFIXES:
        found = pickled.read(
            unpickle(path), path, format=told.format, layers=told.layers, row=told.row
        )
        return _found(found, _bytes(path), told)
    limit = MAX_TEXT_BYTES if suffix in (".svec", ".json") else MAX_BYTES
    data = read_bytes(path, limit=limit)
    return _found(_parsed(data, suffix, str(path), told), data, told)


def _parsed(data: bytes, suffix: str, subject: str, told: Told) -> Foreign:
    if told.layers is not None and suffix in (".gguf", ".svec", ".json", ".npz"):
        raise UsageError(f"{subject} says itself at which layers it belongs; leave --layer out")
    if suffix == ".gguf":
        return controlvector.read(data, subject, told.format)
    if suffix == ".npz":
        return arrays.read_npz(data, subject)
    if suffix == ".npy":
        array = arrays.parse(data, subject)
        return bare.table(array, subject, format="npy", layers=told.layers, row=told.row)
    if suffix == ".safetensors":
        return bare.read_safetensors(data, subject, layers=told.layers, row=told.row)
    try:
        raw = load_strict_json(data.decode(), subject)
    except UnicodeDecodeError:
        raise VectorError(f"{subject} is not UTF-8 text") from None
    return svec.read(raw, subject, told.format) if suffix == ".svec" else ster.read(raw, subject)


def _found(foreign: Foreign, data: bytes, told: Told) -> Found:
    offset = foreign.shift if told.offset is None else told.offset
    lowest = min(foreign.rows) + offset
    if lowest < 0:
        raise UsageError(
            f"number {min(foreign.rows)} with an offset of {offset} would be layer {lowest}",
            hint="say --layer-offset, which is added to the numbers in the file",
        )
    return Found(foreign, hashlib.sha256(data).hexdigest(), offset)


def _bytes(path: Path) -> bytes:
    return read_bytes(path, limit=MAX_BYTES)


def steering_vector(
    found: Found,
    model: ModelIdentity | None,
    *,
    name: str,
    description: str = "",
    license: str = "",
) -> SteeringVector:
    """What was read as a vector of `model`, or of none that is known.

    Raises:
        ModelError: the model has another width, or fewer layers.
    """
    foreign = found.foreign
    layers = tuple(number + found.offset for number in foreign.rows)
    directions = np.stack(list(foreign.rows.values())).astype(np.float32)
    unbound = ModelIdentity(
        id=foreign.model or "unknown",
        architecture="",
        d_model=directions.shape[1],
        n_layers=layers[-1] + 1,
        fingerprint="",
    )
    statistics = tuple(
        LayerStatistics(
            layer=layer,
            norm=rounded(float(np.linalg.norm(row.astype(np.float64)))),
            resid_norm=None,
        )
        for layer, row in zip(layers, directions, strict=True)
    )
    source = Import(
        format=foreign.format,
        sha256=found.sha256,
        convention=foreign.convention,
        offset=found.offset,
        model=foreign.model,
    )
    metadata = Metadata(
        name=name,
        description=description,
        license=license,
        model=unbound,
        site=foreign.site,
        layers=layers,
        method=Method(name="import", source=source),
        read=Read(positions="unknown"),
        contrast=ContrastSummary(kind="unknown", n=0, sha256=""),
        statistics=statistics,
        recommended=Recommended(
            layers=layers,
            coefficient=foreign.coefficient,
            evidence=f"as in the {foreign.format} file; no sweep was run",
        ),
    )
    vector = SteeringVector(metadata, directions)
    return vector if model is None else bind(vector, model)


def bind(vector: SteeringVector, model: ModelIdentity) -> SteeringVector:
    """An unbound vector as one of `model`: the user knows that it was made there.

    Raises:
        VectorError: it is bound already.
        ModelError: the model has another width, or fewer layers.
    """
    metadata = vector.metadata
    made_on = metadata.model
    if made_on.bound:
        raise VectorError(f"vector {vector.name!r} was made on {made_on.id}, and stays bound to it")
    if made_on.d_model != model.d_model or metadata.layers[-1] >= model.n_layers:
        raise ModelError(
            f"vector {vector.name!r} has width {made_on.d_model} and layers"
            f" {format_layers(metadata.layers)}; {model.id} has width {model.d_model} and layers"
            f" 0-{model.n_layers - 1}",
            hint="is it this model, and the layer offset right?",
        )
    return SteeringVector(
        msgspec.structs.replace(metadata, model=model, sha256=""), vector.directions
    )
