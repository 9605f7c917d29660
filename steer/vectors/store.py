"""Vector files: one `.safetensors` each, fully checked before use, never unpickled."""

from __future__ import annotations

import difflib
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from steer.base.errors import SteerError, VectorError
from steer.base.files import open_regular, read_bytes, reported, write_atomic
from steer.base.shipped import SHIPPED
from steer.base.strict_json import load_strict_json
from steer.vectors import lock
from steer.vectors.metadata import Metadata, decode, encode
from steer.vectors.vector import SteeringVector, tensor_shapes

SUFFIX = ".safetensors"
# Generous for any model (1,000 layers of 100,000 numbers), small enough to refuse a weight file.
MAX_BYTES = 400_000_000
_MAX_HEADER = 4_000_000
#: The metadata round norms to six digits, and the writer may have computed them in float32.
_NORM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Header:
    """The metadata and size of a vector file."""

    path: Path
    metadata: Metadata
    n_bytes: int


def write(path: Path, vector: SteeringVector, *, force: bool = False) -> SteeringVector:
    """Write one vector atomically, with its hash; the same vector gives the same bytes.

    Returns the vector with its hash. Raises SteerError if `path` cannot be written.
    """
    check_path(path)
    sealed = vector.sealed()
    write_atomic(path, to_bytes(sealed), force=force)
    lock.forget(path.parent, path.stem)  # it is no longer the vector that was pulled
    return sealed


def to_bytes(vector: SteeringVector) -> bytes:
    """The bytes of the file of a sealed vector."""
    # Contiguous, as in the hash: safetensors writes a transposed array in the order of its memory.
    tensors = {name: np.ascontiguousarray(tensor, "<f4") for name, tensor in vector.tensors.items()}
    # A single metadata key, since safetensors writes several in random order.
    return save(tensors, metadata={"steer": encode(vector.metadata)})


def read_header(path: Path) -> Header:
    """Metadata and size of a vector file. It reads no tensors, so it does not check the hash.

    Raises:
        VectorError: not a vector file, damaged, or in a newer format.
    """
    with open_regular(path) as file, reported(path):
        size = os.fstat(file.fileno()).st_size
        start = file.read(8 + min(size, _MAX_HEADER))
    return Header(path, parse_header(start, size, str(path)), size)


def read(path: Path) -> SteeringVector:
    """Read a vector and check its hash, its norms and its signature.

    Raises:
        VectorError: not a vector file, damaged, altered, in a newer format, with tensors that
            contradict the metadata, or not the signed vector that was pulled.
    """
    return read_with_bytes(path)[0]


def read_with_bytes(path: Path) -> tuple[SteeringVector, bytes]:
    """As `read`, together with the bytes of the file, which signatures cover."""
    data = read_bytes(path, limit=MAX_BYTES)
    vector = from_bytes(data, str(path))
    lock.check(path, data, vector.metadata.sha256)
    return vector, data


def from_bytes(data: bytes, subject: str) -> SteeringVector:
    """As `read`; `subject` names the file in errors."""
    metadata = parse_header(data, len(data), subject)
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise VectorError(f"{subject} is damaged: {error}") from None
    vector = SteeringVector(metadata, **tensors)
    if vector.sha256 != metadata.sha256:
        raise VectorError(
            f"{subject} was altered: its contents do not match its sha256",
            hint="get the file again from where it came",
        )
    check_norms(vector, subject)
    return vector


def check_norms(vector: SteeringVector, subject: str) -> None:
    """Refuse tensors that contradict the metadata.

    The length of each stored direction has to match its norm. A low-rank edit has no single length,
    so only a layer that adds nothing although its norm is positive is refused.

    Raises:
        VectorError: a norm does not match, or all numbers are zero.
    """
    rows = vector.directions.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    if vector.metadata.tokens:  # its one row of statistics is of all embeddings
        lengths = lengths.mean(keepdims=True)
    nonzero = lengths > 0
    if vector.down is not None and vector.up is not None:
        nonzero |= vector.down.any(axis=(1, 2)) & vector.up.any(axis=(1, 2))
    if not nonzero.any():
        raise VectorError(
            f"{subject} holds only zeros: it would not steer",
            hint="get the file again from where it came, or make the vector again",
        )
    for index, row in enumerate(vector.metadata.statistics):
        consistent = bool(nonzero[index]) or row.norm == 0
        if not vector.metadata.rank:
            consistent = math.isclose(lengths[index], row.norm, rel_tol=_NORM_TOLERANCE)
        if not consistent:
            raise VectorError(
                f"{subject} contradicts itself: its direction at layer {row.layer} has length"
                f" {lengths[index]:.4g}, and its metadata say {row.norm:.4g}",
                hint="get the file again from where it came, or make the vector again",
            )


def parse_header(data: bytes, size: int, subject: str) -> Metadata:
    """Check a safetensors header strictly and decode the metadata. data: the first bytes of a file
    of `size` bytes.

    The safetensors library accepts repeated keys and any tensor names, so it is not used here.

    Raises:
        VectorError: not a vector file, damaged, or in a newer format.
    """
    raw = raw_header(data, size, subject)
    texts = raw.pop("__metadata__", None)
    if (
        not isinstance(texts, dict)
        or set(texts) != {"steer"}
        or not isinstance(texts["steer"], str)
    ):
        raise VectorError(
            f"{subject} is a safetensors file, but not a steering vector",
            hint="a vector file has one metadata key, `steer`",
        )
    metadata = decode(texts["steer"], subject)
    if raw != _expected(metadata):
        raise VectorError(f"{subject}: its tensors contradict its metadata")
    return metadata


def _expected(metadata: Metadata) -> dict[str, Any]:
    """The tensor entries of a header for these metadata, in order."""
    expected = {}
    end = 0
    for name, shape in tensor_shapes(metadata).items():
        start, end = end, end + 4 * math.prod(shape)
        expected[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    return expected


def is_vector(path: Path) -> bool:
    """Whether a safetensors file claims to be a steering vector; its contents are not checked.

    Raises:
        SteerError: the file cannot be read, or is not safetensors.
    """
    data = read_bytes(path, limit=MAX_BYTES)
    texts = raw_header(data, len(data), str(path)).get("__metadata__")
    return isinstance(texts, dict) and "steer" in texts


def header_end(data: bytes, subject: str) -> int:
    """The offset at which the header of a file ends. data: the first bytes of the file.

    Raises:
        VectorError: not a safetensors file, or its header is too long.
    """
    if len(data) < 8:
        raise VectorError(f"{subject} is not a safetensors file: it has {len(data)} bytes")
    (length,) = struct.unpack("<Q", data[:8])
    if length > _MAX_HEADER or data[8:9] != b"{":
        raise VectorError(f"{subject} is not a safetensors file")
    return 8 + int(length)


def raw_header(data: bytes, size: int, subject: str) -> dict[str, Any]:
    """The JSON header of any safetensors file. data: the first bytes of a file of `size` bytes.

    Raises:
        VectorError: not safetensors, truncated, or longer than its tensors.
    """
    length = header_end(data, subject) - 8
    if size < 8 + length:
        raise VectorError(f"{subject} is cut off: its header is incomplete")
    try:
        raw = load_strict_json(data[8 : 8 + length].decode(), subject)
    except UnicodeDecodeError:
        raise VectorError(f"{subject}: its header is not text") from None
    if not isinstance(raw, dict):
        raise VectorError(f"{subject}: its header is not an object")
    declared = max((_end(entry) for key, entry in raw.items() if key != "__metadata__"), default=0)
    if size < 8 + length + declared:
        raise VectorError(f"{subject} is cut off: {8 + length + declared - size} bytes are missing")
    if size > 8 + length + declared:
        raise VectorError(f"{subject}: bytes follow its last tensor")
    return raw


def _end(entry: Any) -> int:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if isinstance(offsets, list) and len(offsets) == 2 and isinstance(offsets[1], int):
        return int(offsets[1])
    return 0


def check_path(path: Path) -> None:
    """Refuse an output name that the readers would not find again; make the folder `./vectors`
    where it is to have the file.

    Raises:
        SteerError: the name does not end in `.safetensors`.
    """
    if path.suffix != SUFFIX:
        raise SteerError(f"{path} does not end in {SUFFIX}", hint=f"write -o {path.stem}{SUFFIX}")
    if path.parent == Path("vectors"):
        with reported(path.parent):
            path.parent.mkdir(exist_ok=True)


def check_own(path: Path) -> None:
    """Refuse to change a vector that steer brings along.

    Raises:
        SteerError: it is one of them.
    """
    if path.parent == SHIPPED:
        raise SteerError(
            f"{path.stem} comes with steer and is not changed",
            hint=f"copy it first: mkdir -p vectors; cp {path} vectors/",
        )


def folders() -> list[Path]:
    """The folders in which vectors are found by name: `./vectors`, then those in $STEER_VECTORS."""
    named = os.environ.get("STEER_VECTORS", "")
    return [Path("vectors"), *(Path(part) for part in named.split(os.pathsep) if part)]


def files(folder: Path) -> list[Path]:
    """The vector files of a folder, sorted by name."""
    with reported(folder):
        return sorted(
            path
            for path in folder.iterdir()
            if path.suffix == SUFFIX and not path.name.startswith(".")
        )


def find(reference: str) -> Path:
    """The file that a path or a name means; names are looked up in `folders()`, then in `SHIPPED`.

    A name never means a file in the folder at hand, which is `./NAME`; where there is such a file,
    a shipped vector of that name is not taken in its place.

    Raises:
        VectorError: there is none; the message has the most similar name.
    """
    if "://" in reference:
        raise VectorError(
            f"the vector {reference} is not on this machine",
            hint="pull it first (steer pull), and give the path of the file",
        )
    path = Path(reference)
    searched = [folder for folder in folders() if folder.is_dir()]
    with reported(path):  # a name may be too long for any file
        if path.suffix == SUFFIX or path.parent != Path() or reference.startswith("./"):
            for candidate in (path, Path(reference + SUFFIX)):
                if candidate.is_file():
                    return candidate
            if path.is_dir():
                problem = f"{reference} is a folder"
            elif path.exists():
                problem = f"{reference} is no regular file"
            else:
                problem = f"there is no file {reference}"
            raise VectorError(
                problem,
                hint=_scope_hint(reference, searched) or "see `steer list`",
            )
        for folder in searched:
            candidate = folder / (reference + SUFFIX)
            if candidate.is_file():
                return candidate
    local = Path(reference + SUFFIX)
    with reported(path):
        shipped = SHIPPED / local
        if local.is_file():
            hint = f"for the file in this folder write ./{reference}"
        elif shipped.is_file():
            return shipped
        else:
            names = [file.stem for folder in [*searched, SHIPPED] for file in files(folder)]
            close = difflib.get_close_matches(reference, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "see `steer list`"
    raise VectorError(
        f"no vector named {reference!r} in {' or '.join(str(f) for f in folders())}", hint=hint
    )


def _scope_hint(reference: str, searched: list[Path]) -> str | None:
    """A hint for `NAME/SCOPE`, which is read as a path, if there is a vector NAME."""
    name, _, rest = reference.partition("/")
    if any((folder / (name + SUFFIX)).is_file() for folder in searched):
        return f"a scope follows an op, a coefficient or layers: {name}:recommended/{rest}"
    return None
