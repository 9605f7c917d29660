"""Every format that is known: those of `steer.formats.builtin`, and those of other packages.

A format is one `Format` object, which holds all about it. Ours are the `FORMAT` of each module of
`steer.formats.builtin`; another package names its own under the entry point group `steer.formats`.
Help, documentation, fuzzing and tests read this registry; nothing else lists formats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from steer.base import extensions
from steer.base.errors import VectorError
from steer.base.extensions import Extension, Registry, foreign_code, load
from steer.formats.imported import Imported
from steer.formats.source import FOLDER, Options, Source
from steer.steering.operation import Operation
from steer.vectors.metadata import Metadata
from steer.vectors.sites import SiteName
from steer.vectors.vector import Directions, SteeringVector

GROUP = "steer.formats"
#: Our own formats, one module each.
OWN = "steer.formats.builtin"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What a file of another tool is to hold.

    directions: float32 [d_model] by the file's layer number: of an addition what is added, its
        coefficient included; of another op the vector's direction.
    op, coefficient: what is done with them; the coefficient of an addition is 1.
    vector: where they are from. model: Hugging Face's model type, such as `llama`, where known.
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
    """How a format is written.

    write: the bytes, the same for the same arguments; raises VectorError of what it cannot hold.
    ops: names of the ops that it can carry. sites: where they may act.
    default: whether a file that ends like this is written in this format where no other is named.
    use: what to do with the file, where OUT stands for its name.
    """

    write: Callable[[Outgoing], bytes]
    ops: tuple[str, ...] = ("add",)
    sites: tuple[SiteName, ...] = ("resid_post",)
    default: bool = True
    use: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format(Extension):
    """A kind of file of other tools.

    name: as after --format. title: whose files they are. help: one line that says what they hold.
    suffixes: how the files end; FOLDER for folders.
    read: what a file holds; raises VectorError of a file that is damaged or cannot be carried, and
        UsageError where the user has to say more.
    detect: whether a file bears this format's own marks. Without it, a file is read in this format
        only where it is named, or where it is the fallback.
    fallback: read in this format what no other recognises.
    options: those of `Options` that `read` has a use for, of layers, row, pick and
        minus. Without `layers`, --layer chooses among the layers of the file.
    example: makes files of this format by name, for tests and fuzzing: contents by name.
    writer: how it is written, if it is.
    """

    suffixes: tuple[str, ...]
    read: Callable[[Source, Options], Imported] | None = None
    detect: Callable[[Source], bool] | None = None
    fallback: bool = False
    options: tuple[str, ...] = ()
    writer: Writer | None = None

    @property
    def kinds(self) -> str:
        """`.pt, folders`."""
        return ", ".join("folders" if suffix == FOLDER else suffix for suffix in self.suffixes)


class Formats(Registry[Format]):
    """The formats, and which of them read and write a kind of file."""

    def reading(self, suffix: str) -> list[Format]:
        """The formats in which files that end like this are read."""
        return [each for each in self if each.read and suffix in each.suffixes]

    def writing(self, suffix: str) -> list[Format]:
        """The formats in which files that end like this are written, the usual one first."""
        found = [each for each in self if each.writer and suffix in each.suffixes]
        return sorted(found, key=lambda each: not (each.writer and each.writer.default))

    def suffixes(self, *, written: bool = False) -> list[str]:
        """How files end that are read (or written), folders left out."""
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
    """All formats, by rising name. Another package's cannot take the place of one of ours."""
    found = load(Format, noun="format", group=GROUP, own=OWN, attribute="FORMAT")
    return Formats(found.noun, found.items, found.broken)


def builtin() -> Sequence[Format]:
    """The `FORMAT` of each module of `steer.formats.builtin`."""
    return extensions.builtin(OWN, "FORMAT")


@contextmanager
def others_code(each: Format, what: str) -> Iterator[None]:
    """Name the package whose format fails: its code may raise anything.

    Raises:
        VectorError: in place of what is no SteerError, where the format is not ours.
    """
    hint = "--format names another format; tell the package's authors"
    with foreign_code(each, "format", what, VectorError, hint):
        yield
