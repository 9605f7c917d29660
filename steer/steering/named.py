"""Steers as they are written, on a command line or in a recipe, and the steers they stand for."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from steer.base.errors import UsageError, VectorError
from steer.base.urls import public
from steer.steering import projection, spec
from steer.steering.steers import Steer, resolve
from steer.vectors import lock, store
from steer.vectors.vector import SteeringVector


@dataclass(frozen=True, slots=True)
class NamedSteer:
    """A steer as `-v` takes it, behind a gate as `--when` takes it.

    file: which recipe it stands in, if in one. sha256: the hash that its vector must have.
    """

    vector: str
    file: Path | None = None
    sha256: str | None = None
    when: str | None = None

    def __str__(self) -> str:
        return f"{self.vector} when {self.when}" if self.when else self.vector


def behind(steers: Sequence[NamedSteer], when: str | None, by: str) -> list[NamedSteer]:
    """The same steers, behind the gate that `by` asks for, if it does.

    Raises:
        UsageError: it is no condition, there is nothing to gate, or a steer has another gate.
    """
    if when is None:
        return list(steers)
    spec.parse_condition(when)
    if not steers:
        raise UsageError(f"{by} has nothing to steer", hint="name vectors that wait for it")
    for one in steers:
        if one.when not in (None, when):
            raise UsageError(
                f"{by} {when!r}: {one.vector!r} waits for {one.when!r} already",
                hint="a steer has one gate: leave one of the two out",
            )
    return [one if one.when == when else replace(one, when=when) for one in steers]


def resolved(steers: Sequence[NamedSteer], find: Callable[[str], Path] = store.find) -> list[Steer]:
    """The steers with their vectors and gates, of which each is read once.

    find: the file that a reference means, fetched from an address if it can do that.

    Raises:
        UsageError: a spec or a condition means nothing.
        VectorError: a vector is missing, is another one than its hash says, or does not suit.
        SiteError: a gate reads behind where its steer acts.
    """

    @cache
    def vector(path: Path) -> SteeringVector:
        return store.read(path)

    @cache
    def gate(condition: spec.ConditionSpec, path: Path) -> projection.Gate:
        return projection.gate(condition, vector(path))

    parsed = [
        (one, spec.parse(one.vector), None if one.when is None else spec.parse_condition(one.when))
        for one in steers
    ]
    results = []
    for one, typed, condition in parsed:
        found = vector(_file(find, typed.reference, one, one.sha256, _of(one.file)))
        _check_hash(one, found)
        read = None
        if condition is not None:
            by = f"{_of(one.file)}the gate {one.when!r}: "
            read = gate(condition, _file(find, condition.read.reference, one, None, by))
        results.append(resolve(typed, found, read))
    return results


def _file(
    find: Callable[[str], Path], reference: str, steer: NamedSteer, sha256: str | None, by: str
) -> Path:
    """What `find` finds; what it does not, said `by` those who asked.

    An address in a file means a vector that was pulled: nothing is fetched because a file, perhaps
    a stranger's, says so.
    """
    if steer.file is not None and "://" in reference:
        return _pulled(reference, sha256, by)
    try:
        return find(reference)
    except VectorError as error:
        raise VectorError(f"{by}{error}", hint=error.hint) from None


def _pulled(reference: str, sha256: str | None, by: str) -> Path:
    url = public(reference.removesuffix(store.SUFFIX))
    for folder in store.folders():
        name = lock.find_pulled(folder, url, sha256)
        if name is not None:
            return folder / f"{name}{store.SUFFIX}"
    which = "" if sha256 is None else f" with the sha256 {sha256[:12]}..."
    raise VectorError(
        f"{by}the vector {url}{which} is not on this machine, and is not fetched because a"
        " recipe names it",
        hint=f"if you trust it: steer pull {shlex.quote(url)}",
    )


def with_paths(steer: NamedSteer, moved: Callable[[str], str]) -> NamedSteer:
    """A steer whose vectors, where they are paths and not names, stand at other paths.

    Raises:
        UsageError: a spec or a condition means nothing.
    """
    vector = _with_path(steer.vector, spec.parse(steer.vector).reference, moved)
    when = None if steer.when is None else condition_with_path(steer.when, moved)
    return replace(steer, vector=vector, when=when)


def condition_with_path(text: str, moved: Callable[[str], str]) -> str:
    """The same for a condition.

    Raises:
        UsageError: it means nothing.
    """
    return _with_path(text, spec.parse_condition(text).read.reference, moved)


def _with_path(text: str, reference: str, moved: Callable[[str], str]) -> str:
    """What follows the reference is left as it was written."""
    text = text.strip()
    return text if _is_name(reference) else f"{moved(reference)}{text[len(reference) :]}"


def _check_hash(steer: NamedSteer, vector: SteeringVector) -> None:
    actual = vector.sha256
    if steer.sha256 not in (None, actual):
        raise VectorError(
            f"{_of(steer.file)}{steer.vector} is not the vector that the recipe means: its sha256"
            f" is {actual[:12]}..., not {str(steer.sha256)[:12]}...",
            hint="get the file from where the recipe came, or correct the recipe",
        )


def _of(file: Path | None) -> str:
    return "" if file is None else f"{file}: "


def _is_name(reference: str) -> bool:
    """Whether it means the same wherever it is written: a vector's name, or an address."""
    here = Path(reference)
    return "://" in reference or (here.suffix != store.SUFFIX and here.parent == Path())
