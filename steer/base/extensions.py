"""Objects that other packages can add: methods, ops, formats and measures, each by its name.

Ours are one module each in a package, and hold the object under a fixed name. Those of other
packages are found by an entry point (docs/extending.md). Whatever lists them reads a `Registry`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from steer.base.errors import SteerError, UsageError
from steer.base.text import listed


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """The attributes that every extension has.

    name: as the user types it. title: a few words for the head of a row or a column. help: one line
    for the help and the docs. aliases: other names. order: lists are sorted by it, then by name.
    package: the package that it comes from; None for steer's own.
    """

    name: str
    title: str = ""
    help: str = ""
    aliases: tuple[str, ...] = ()
    order: int = 100
    package: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


@dataclass(frozen=True, slots=True)
class BrokenExtension:
    """An extension of another package that cannot be used, and why."""

    noun: str
    name: str
    package: str
    reason: str

    def __str__(self) -> str:
        return (
            f"the {self.noun} {self.name} of the package {self.package} is left out: {self.reason}"
        )


T = TypeVar("T", bound=Extension)
U = TypeVar("U", bound=Extension)


@dataclass(frozen=True, slots=True)
class Registry(Generic[T]):
    """Extensions of one kind by name: steer's own, then those of other packages.

    noun: what one is called, such as `method`. broken: what other packages offer that cannot be
    used.
    """

    noun: str
    items: Mapping[str, T]
    broken: tuple[BrokenExtension, ...] = ()
    _by_alias: dict[str, T] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for item in self.items.values():
            self._by_alias.update(dict.fromkeys(item.names, item))

    def __iter__(self) -> Iterator[T]:
        return iter(self.items.values())

    def __contains__(self, name: str) -> bool:
        return name in self._by_alias

    @property
    def names(self) -> tuple[str, ...]:
        """All names, without aliases."""
        return tuple(self.items)

    def title(self, name: str) -> str:
        """The title of an extension; the name itself if it is not there."""
        return self._by_alias[name].title or name if name in self._by_alias else name

    def of_kind(self, kind: type[U]) -> Registry[U]:
        """The extensions of one class."""
        items = {name: item for name, item in self.items.items() if isinstance(item, kind)}
        return Registry(self.noun, items, self.broken)

    def named(self, name: str) -> T:
        """The extension of a name or alias.

        Raises:
            UsageError: there is none, or the package that has it cannot be used.
        """
        if name in self._by_alias:
            return self._by_alias[name]
        for broken in self.broken:
            if broken.name == name:
                raise UsageError(str(broken), hint="fix or update that package")
        raise UsageError(f"{name!r} is not a {self.noun}", hint=f"use one of {listed(self.items)}")


def load(kind: type[T], *, noun: str, group: str, own: str, attribute: str) -> Registry[T]:
    """The extensions of a kind.

    own: the package whose modules each hold one of ours, as `attribute`. group: the entry points
    by which other packages name theirs; an extension of another package cannot take the place of
    one of ours.
    """
    items: dict[str, T] = {item.name: item for item in builtin(own, attribute)}
    taken = {name for item in items.values() for name in item.names}
    broken: list[BrokenExtension] = []
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        package = _package(point)
        try:
            item = point.load()
            if not isinstance(item, kind):
                kind_name = type(item).__name__
                raise TypeError(f"{point.value} is of type {kind_name}, not {kind.__name__}")
            if clash := taken & set(item.names):
                raise ValueError(f"the name {min(clash)!r} is taken")
        # Another package's code may raise anything; the tool goes on without it.
        except Exception as error:
            broken.append(BrokenExtension(noun, point.name, package, explained(error)))
            continue
        items[item.name] = replace(item, package=package)
        taken.update(item.names)
    ordered = sorted(items.values(), key=lambda item: (item.order, item.name))
    return Registry(noun, {item.name: item for item in ordered}, tuple(broken))


@cache
def builtin(package: str, attribute: str) -> tuple[Any, ...]:
    """The attribute of a given name in each module of a package, sorted by module name."""
    root = importlib.import_module(package)
    modules = [
        importlib.import_module(f"{package}.{info.name}")
        for info in pkgutil.iter_modules(root.__path__)
    ]
    return tuple(getattr(module, attribute) for module in modules)


@contextmanager
def foreign_code(
    item: Extension, noun: str, doing: str, error_type: type[SteerError], hint: str
) -> Iterator[None]:
    """Turn whatever the code of another package raises into an error that names the package.

    Raises:
        SteerError: of `error_type`, in place of an exception that is no SteerError. Exceptions of
            steer's own extensions are left as they are.
    """
    try:
        yield
    except SteerError:
        raise
    except Exception as error:
        if item.package is None:
            raise
        raise error_type(
            f"the {noun} {item.name} of the package {item.package} failed {doing}:"
            f" {explained(error)}",
            hint=hint,
        ) from None


def explained(error: Exception) -> str:
    """The type of an exception and the first line of its message, at most 200 characters."""
    return f"{type(error).__name__}: {error}".partition("\n")[0][:200]


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "unknown"
