"""The registry of formats: those of `steer.formats.builtin`, and those of other packages.

A format is one `Format` object. Ours are the `FORMAT` of each module of `steer.formats.builtin`;
another package names its own with the entry point group `steer.formats`. Help, documentation,
fuzzers and tests read this registry; nothing else lists formats.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from steer.base.errors import SteerError, UsageError, VectorError
from steer.formats.imported import Imported
from steer.formats.source import FOLDER, Options, Source
from steer.steering.operation import Operation
from steer.vectors.metadata import Metadata
from steer.vectors.sites import SiteName, listed
from steer.vectors.vector import Directions, SteeringVector

GROUP = "steer.formats"


@dataclass(frozen=True, slots=True)
class Outgoing:
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
    """How a format is written.

    write: gives the bytes, the same for the same arguments; raises VectorError for contents that
        the format cannot hold. ops: names of the ops that it can hold. sites: where they may act.
    default: whether files with this suffix are written in this format unless the user names one.
    use: how to use the file, with OUT for its name.
    """

    write: Callable[[Outgoing], bytes]
    ops: tuple[str, ...] = ("add",)
    sites: tuple[SiteName, ...] = ("resid_post",)
    default: bool = True
    use: str = ""


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of file of other tools.

    name: for --format. title: the tools that write it. help: one line about the contents.
    suffixes: of the files; FOLDER for folders.
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

    name: str
    title: str
    help: str
    suffixes: tuple[str, ...]
    read: Callable[[Source, Options], Imported] | None = None
    detect: Callable[[Source], bool] | None = None
    fallback: bool = False
    options: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    writer: Writer | None = None
    package: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)

    @property
    def kinds(self) -> str:
        """`.pt, folders`."""
        return ", ".join("folders" if suffix == FOLDER else suffix for suffix in self.suffixes)


@dataclass(frozen=True, slots=True)
class Broken:
    """A format of another package that could not be loaded, and why."""

    name: str
    package: str
    reason: str

    def __str__(self) -> str:
        return f"the format {self.name} of the package {self.package} is left out: {self.reason}"


@dataclass(frozen=True, slots=True)
class Registry:
    """The formats by name, sorted, and those that could not be loaded."""

    formats: Mapping[str, Format]
    broken: tuple[Broken, ...] = ()
    _by_alias: dict[str, Format] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for each in self.formats.values():
            self._by_alias.update(dict.fromkeys(each.names, each))

    def __iter__(self) -> Iterator[Format]:
        return iter(self.formats.values())

    def named(self, name: str) -> Format:
        """The format of a name or alias.

        Raises:
            UsageError: there is none.
        """
        if name not in self._by_alias:
            raise UsageError(
                f"{name!r} is not a format",
                hint=f"use one of {listed(self.formats)}",
            )
        return self._by_alias[name]

    def reading(self, suffix: str) -> list[Format]:
        """The formats that read files with this suffix."""
        return [each for each in self.formats.values() if each.read and suffix in each.suffixes]

    def writing(self, suffix: str) -> list[Format]:
        """The formats that write files with this suffix, the default first."""
        writers = [
            each for each in self.formats.values() if each.writer and suffix in each.suffixes
        ]
        return sorted(writers, key=lambda each: not (each.writer and each.writer.default))

    def suffixes(self, *, written: bool = False) -> list[str]:
        """The suffixes of files that can be read (or written)."""
        return sorted(
            {
                suffix
                for each in self.formats.values()
                if (each.writer if written else each.read)
                for suffix in each.suffixes
                if suffix != FOLDER
            }
        )


@cache
def registry() -> Registry:
    """All formats. Another package's format cannot replace one of ours."""
    formats: dict[str, Format] = {}
    taken: set[str] = set()
    broken = []
    for each in builtin():
        formats[each.name] = each
        taken.update(each.names)
    for point in entry_points(group=GROUP):
        try:
            loaded = _loaded(point)
            if clash := taken & set(loaded.names):
                raise ValueError(f"the name {min(clash)!r} is taken")
        # Another package's code may raise anything; go on without its format.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
            broken.append(Broken(point.name, _package(point), reason))
            continue
        formats[loaded.name] = loaded
        taken.update(loaded.names)
    return Registry(dict(sorted(formats.items())), tuple(broken))


def builtin() -> Sequence[Format]:
    """The `FORMAT` of each module of `steer.formats.builtin`."""
    from steer.formats import builtin as package

    modules = [
        importlib.import_module(f"{package.__name__}.{info.name}")
        for info in pkgutil.iter_modules(package.__path__)
    ]
    return [module.FORMAT for module in modules]


@contextmanager
def others_code(each: Format, task: str) -> Iterator[None]:
    """Turn exceptions of another package's format into an error that names the package. task: such
    as `to read FILE`.

    Raises:
        VectorError: in place of any exception but a SteerError, if the format is not ours.
    """
    try:
        yield
    except SteerError:
        raise
    except Exception as error:
        if each.package is None:
            raise
        reason = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        raise VectorError(
            f"the format {each.name} of the package {each.package} failed {task}: {reason}",
            hint="choose another format with --format, and report this to the package's authors",
        ) from None


def _loaded(point: EntryPoint) -> Format:
    loaded = point.load()
    if not isinstance(loaded, Format):
        raise TypeError(f"{point.value} is a {type(loaded).__name__}, not a steer.formats Format")
    return replace(loaded, package=_package(point))


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "unknown"
