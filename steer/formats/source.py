"""Safe access to a file or folder of another tool: within limits, no links followed, no code run.

A `Format` gets JSON, tensors, GGUF or archive members from it. Contents are cached, so that several
formats can inspect the same file, and hashed.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from steer.base.errors import VectorError
from steer.base.files import open_regular, read_bytes, reported
from steer.base.strict_json import load_strict_json
from steer.formats import arrays, gguf, tensors
from steer.formats.archives import members
from steer.formats.imported import MAX_BYTES, MAX_TEXT_BYTES
from steer.formats.tensors import Tensors

Array = NDArray[Any]
#: The contents of a torch pickle: arrays, plain values, and dictionaries and lists of them.
Pickled = Any
Unpickle = Callable[[Path], Pickled]
T = TypeVar("T")

FOLDER = "/"
#: More files than any model has layers, with two files per layer.
_MAX_FILES = 20_000


@dataclass(frozen=True, slots=True)
class Options:
    """The user's options for reading a file.

    format: the name of a format. layers: the layers of bare numbers, or the layers of the file to
    take. row: of a table of directions. pick: the name of one of several vectors. minus: a file
    whose activations are subtracted. encoder: take the row of a sparse autoencoder's encoder, which
    reads a feature, not of its decoder. offset: added to the file's layer numbers in place of the
    format's convention. model: the name of the user's model, to choose among several vectors.
    """

    format: str | None = None
    layers: tuple[int, ...] | None = None
    row: int | None = None
    pick: str | None = None
    minus: Path | None = None
    encoder: bool = False
    offset: int | None = None
    model: str | None = None


class Source:
    """One file, folder or archive, and the files in it and beside it.

    Every method raises SteerError if a file is missing, too large, damaged or not a regular file.
    """

    def __init__(self, path: Path, unpickle: Unpickle) -> None:
        self.path, self._unpickle = path, unpickle
        with reported(path):
            self.is_folder = path.is_dir()
        self._contents: dict[str, bytes | memoryview] = {}
        self._parsed: dict[tuple[str, str], Any] = {}
        self._used: list[str] = []
        self._others: dict[Path, Source] = {}

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.name or self.path.resolve().name

    @property
    def suffix(self) -> str:
        """`.pt`, or `FOLDER`."""
        return FOLDER if self.is_folder else self.path.suffix.lower()

    def restart(self) -> None:
        """Forget which files were used, so that the hash covers only what is used from here on."""
        self._used = []
        self._others = {}

    def other(self, path: Path) -> Source:
        """Another file that the user names, which belongs to this one."""
        return self._others.setdefault(path, Source(path, self._unpickle))

    @property
    def sha256(self) -> str:
        """The hash of the files that were used, in that order."""
        digest = hashlib.sha256()
        for name in self._used:
            digest.update(self._contents[name])
        for other in self._others.values():
            for name in other._used:
                digest.update(other._contents[name])
        return digest.hexdigest()

    def files(self) -> list[str]:
        """The names of the files in the folder, sorted; of a file, those beside it."""
        folder = self.path if self.is_folder else self.path.parent
        names = []
        with reported(folder):
            for entry in folder.iterdir():
                if entry.is_file() and not entry.is_symlink():
                    names.append(entry.name)
                if len(names) > _MAX_FILES:
                    raise VectorError(f"{folder} has more than {_MAX_FILES:,} files")
        return sorted(names)

    def has(self, name: str) -> bool:
        """Whether there is a regular file of this name in the folder, or beside the file."""
        path = self._at(name)
        return path.is_file() and not path.is_symlink()

    def content(self, name: str = "", *, limit: int = MAX_BYTES) -> bytes:
        """The bytes of the file itself, or of a file in the folder or beside the file."""
        return bytes(self._content(name, limit, mapped=False))

    def _content(self, name: str, limit: int, *, mapped: bool) -> bytes | memoryview:
        """The bytes of a file; with `mapped`, a large file is memory-mapped."""
        if name not in self._contents:
            path = self._at(name)
            with reported(path):
                large = mapped and path.stat().st_size > limit
            if large:
                self._contents[name] = map_file(path, follow_links=not name)
            else:
                self._contents[name] = read_bytes(path, limit=limit, follow_links=not name)
        if name not in self._used:
            self._used.append(name)
        return self._contents[name]

    def inside(self, path: str) -> bytes:
        """The bytes of a file in a folder of the folder, as `artifacts/x/y.json`."""
        parts = path.split("/")
        folder = self.path
        for part in parts[:-1]:
            self._at(part)
            folder = folder / part
            if folder.is_symlink():
                raise VectorError(f"{folder} is a link, which is not followed")
        self._at(parts[-1])
        if path not in self._contents:
            self._contents[path] = read_bytes(
                folder / parts[-1], limit=MAX_BYTES, follow_links=False
            )
        if path not in self._used:
            self._used.append(path)
        return bytes(self._contents[path])

    def json(self, name: str = "") -> Any:
        """The JSON of a file."""

        def parse(data: bytes) -> Any:
            try:
                return load_strict_json(data.decode(), self.subject(name))
            except UnicodeDecodeError:
                raise VectorError(f"{self.subject(name)} is not UTF-8 text") from None

        return self._once("json", name, parse, limit=MAX_TEXT_BYTES)

    def tensors(self, name: str = "") -> Tensors:
        """The tensors and texts of a safetensors file, which may be large."""

        def parse(data: bytes | memoryview) -> Tensors:
            return tensors.parse(data, self.subject(name))

        return self._once("tensors", name, parse, mapped=True)

    def npy(self, name: str = "") -> Array:
        """The array of a `.npy` file."""
        return self._once("npy", name, lambda data: arrays.parse(data, self.subject(name)))

    def npz(self, name: str = "") -> Mapping[str, Array]:
        """The arrays of a `.npz` file, which may be large if it is not compressed."""

        def parse(data: bytes | memoryview) -> Mapping[str, Array]:
            return arrays.parse_npz(data, self.subject(name))

        return self._once("npz", name, parse, mapped=True)

    def gguf(self, name: str = "") -> gguf.Gguf:
        """A GGUF file with one-dimensional float32 tensors."""
        return self._once("gguf", name, lambda data: gguf.parse(data, self.subject(name)))

    def archive(self, name: str = "") -> Mapping[str, bytes]:
        """The members of a zip archive, unpacked in memory."""
        return self._once("archive", name, lambda data: members(data, self.subject(name)))

    def pickled(self, name: str = "") -> Pickled:
        """The contents of a torch file, read by torch's restricted reader."""

        def parse(data: bytes) -> Pickled:
            return self._unpickle(self._at(name))

        return self._once("pickled", name, parse, limit=4 * MAX_BYTES)

    def subject(self, name: str = "") -> str:
        """The name of a file in messages."""
        return str(self._at(name))

    def _at(self, name: str) -> Path:
        if not name:
            return self.path
        if name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise VectorError(f"{self.path} names a file {name[:60]!r}, which is not in its folder")
        return (self.path if self.is_folder else self.path.parent) / name

    def _once(
        self,
        kind: str,
        name: str,
        parse: Callable[[Any], T],
        *,
        limit: int = MAX_BYTES,
        mapped: bool = False,
    ) -> T:
        data = self._content(name, limit, mapped=mapped)
        key = (kind, name)
        if key not in self._parsed:
            self._parsed[key] = parse(data)
        parsed: T = self._parsed[key]
        return parsed


def map_file(path: Path, *, follow_links: bool) -> memoryview:
    """Memory-map a large regular file."""
    with open_regular(path, follow_links=follow_links) as file, reported(path):
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
