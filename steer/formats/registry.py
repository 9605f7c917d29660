"""The registry of formats: those of `steer.formats.builtin`, and those of other packages.

A format is one `Format` object. Ours are the `FORMAT` of each module of `steer.formats.builtin`;
another package names its own with the entry point group `steer.formats`. Help, documentation,
fuzzers and tests read this registry; nothing else lists formats.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from steer.base import extensions
from steer.base.errors import VectorError
from steer.base.extensions import Extension, Registry, foreign_code, load
from steer.formats.imported import ImportedVector
from steer.formats.source import FOLDER, Options, Source
from steer.steering.operation import Operation
from steer.vectors.metadata import Metadata
from steer.vectors.sites import SiteName
from steer.vectors.vector import Directions, SteeringVector

GROUP = "steer.formats"
#: Our own formats, one module each.
OWN = "steer.formats.builtin"
_SUFFIX = re.compile(r"\.[a-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class FileContents:
    """The contents to write to a file of another tool.

    directions: float32 [d_model] by the file's layer number: for an addition, what is added,
        including its coefficient; for another op, the vector's direction.
    op, coefficient: how they act; the coefficient of an addition is 1.
    vector: their origin. model: Hugging Face's model type, such as `llama`, if known.
    """

    directions: Mapping[int, Directions]
    site: SiteName
    op: Operation
    coefficient: float
    vector: SteeringVector
    model: str

    @property
    def name(self) -> str:
        return self.vector.name

    @property
    def metadata(self) -> Metadata:
        return self.vector.metadata


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes a format.

    write: returns the bytes, the same for the same arguments; raises VectorError for contents that
        the format cannot express. ops, sites: names of the ops and sites that it can express.
    default: whether files with this suffix are written in this format unless the user names one.
    use: how to use the file, with OUT for its name.
    """

    write: Callable[[FileContents], bytes]
    ops: tuple[str, ...] = ("add",)
    sites: tuple[SiteName, ...] = ("resid_post",)
    default: bool = True
    use: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format(Extension):
    """A kind of file of other tools.

    name: for --format. title: the tools that write it. help: one line about the contents.
    suffixes: of the files, in lower case, with one dot; FOLDER for folders.
    read: reads a file; raises VectorError if it is damaged or cannot be represented, and UsageError
        if the user has to give more options.
    detect: whether a file is in this format. Without it, a file is read in this format only if the
        user names the format, or as the fallback.
    fallback: reads files that no other format detects.
    options: the fields of `Options` that `read` uses, of layers, row, pick and minus. Without
        `layers`, --layer chooses among the layers of the file.
    writer: how to write the format; None if it is only read.
    package: the package that registers it; None for ours.
    """

    suffixes: tuple[str, ...]
    read: Callable[[Source, Options], ImportedVector] | None = None
    detect: Callable[[Source], bool] | None = None
    fallback: bool = False
    options: tuple[str, ...] = ()
    writer: Writer | None = None

    def __post_init__(self) -> None:
        for suffix in self.suffixes:
            if suffix != FOLDER and not _SUFFIX.fullmatch(suffix):
                raise ValueError(
                    f"{suffix!r} is not a file suffix: write one dot and lower-case letters, such"
                    " as .json, and use detect= to recognise your files"
                )

    @property
    def kinds(self) -> str:
        """`.pt, folders`."""
        return ", ".join("folders" if suffix == FOLDER else suffix for suffix in self.suffixes)


class Formats(Registry[Format]):
    """The formats, and which of them read and write a kind of file."""

    def readers(self, suffix: str) -> list[Format]:
        """The formats that read files with this suffix."""
        return [each for each in self if each.read and suffix in each.suffixes]

    def writers(self, suffix: str) -> list[Format]:
        """The formats that write files with this suffix, the default first."""
        writers = [each for each in self if each.writer and suffix in each.suffixes]
        return sorted(writers, key=lambda each: not (each.writer and each.writer.default))

    def suffixes(self, *, written: bool = False) -> list[str]:
        """The suffixes of files that can be read (or written)."""
        return sorted(
            {
                suffix
                for each in self
                if (each.writer if written else each.read)
                for suffix in each.suffixes
                if suffix != FOLDER
            }
        )


@cache
def registry() -> Formats:
    """All formats, sorted by name. Another package's format cannot replace one of ours."""
    loaded = load(Format, noun="format", group=GROUP, own=OWN, attribute="FORMAT")
    return Formats(loaded.noun, loaded.items, loaded.broken)


def builtin() -> Sequence[Format]:
    """The `FORMAT` of each module of `steer.formats.builtin`."""
    return extensions.builtin(OWN, "FORMAT")


@contextmanager
def others_code(each: Format, task: str) -> Iterator[None]:
    """Turn exceptions of another package's format into an error that names the package. task: such
    as `to read FILE`.

    Raises:
        VectorError: in place of any exception but a SteerError, if the format is not ours.
    """
    hint = "choose another format with --format, and report this to the package's authors"
    with foreign_code(each, "format", task, VectorError, hint):
        yield
