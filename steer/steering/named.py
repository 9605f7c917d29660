"""Steers as the user writes them, on a command line or in a recipe, and their resolution."""

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
    """A steer in the grammar of `-v`, with a gate in the grammar of `--when`.

    file: the recipe that it comes from, if any. sha256: the hash that its vector must have.
    """

    vector: str
    file: Path | None = None
    sha256: str | None = None
    when: str | None = None

    def __str__(self) -> str:
        return f"{self.vector} when {self.when}" if self.when else self.vector


def gated(steers: Sequence[NamedSteer], when: str | None, by: str) -> list[NamedSteer]:
    """The steers with the gate `when`, if there is one. by: the option or key that names it.

    Raises:
        UsageError: `when` is invalid, there is nothing to gate, or a steer has another gate.
    """
    if when is None:
        return list(steers)
    spec.parse_threshold(when)
    if not steers:
        raise UsageError(f"{by} has no steer to gate", hint="name a vector")
    for steer in steers:
        if steer.when not in (None, when):
            raise UsageError(
                f"{by} {when!r}: {steer.vector!r} has the gate {steer.when!r} already",
                hint="a steer has one gate: leave one of the two out",
            )
    return [steer if steer.when == when else replace(steer, when=when) for steer in steers]


def resolved(steers: Sequence[NamedSteer], find: Callable[[str], Path] = store.find) -> list[Steer]:
    """Steers with their vectors and gates. Each file is read once.

    find: gives the file of a reference; it may fetch addresses.

    Raises:
        UsageError: a spec or a gate is invalid.
        VectorError: a vector is missing, does not have its hash, or is unsuitable.
        SiteError: a gate reads deeper than its steer acts.
    """

    @cache
    def vector(path: Path) -> SteeringVector:
        return store.read(path)

    @cache
    def gate(threshold: spec.ThresholdSpec, path: Path) -> projection.Gate:
        return projection.gate(threshold, vector(path))

    parsed = [
        (
            named,
            spec.parse(named.vector),
            None if named.when is None else spec.parse_threshold(named.when),
        )
        for named in steers
    ]
    results = []
    for named, typed, condition in parsed:
        own = vector(_file(find, typed.reference, named, named.sha256, _of(named.file)))
        _check_hash(named, own)
        own_gate = None
        if condition is not None:
            by = f"{_of(named.file)}the gate {named.when!r}: "
            own_gate = gate(condition, _file(find, condition.read.reference, named, None, by))
        results.append(resolve(typed, own, own_gate))
    return results


def _file(
    find: Callable[[str], Path], reference: str, steer: NamedSteer, sha256: str | None, by: str
) -> Path:
    """The file of a reference. by: the beginning of error messages.

    An address in a recipe means a vector that was pulled before: a recipe, perhaps a stranger's,
    never causes a download.
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
    digest = "" if sha256 is None else f" with the sha256 {sha256[:12]}..."
    raise VectorError(
        f"{by}the vector {url}{digest} is not on this machine, and is not fetched because a"
        " recipe names it",
        hint=f"if you trust it: steer pull {shlex.quote(url)}",
    )


def with_paths(steer: NamedSteer, moved: Callable[[str], str]) -> NamedSteer:
    """A steer with its vectors' paths changed by `moved`; names stay.

    Raises:
        UsageError: a spec or a gate is invalid.
    """
    vector = _with_path(steer.vector, spec.parse(steer.vector).reference, moved)
    when = None if steer.when is None else condition_with_path(steer.when, moved)
    return replace(steer, vector=vector, when=when)


def condition_with_path(text: str, moved: Callable[[str], str]) -> str:
    """A gate with its vector's path changed by `moved`.

    Raises:
        UsageError: the gate is invalid.
    """
    return _with_path(text, spec.parse_threshold(text).read.reference, moved)


def _with_path(text: str, reference: str, moved: Callable[[str], str]) -> str:
    """Replace the reference at the beginning of `text`, and keep the rest."""
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
    """Whether a reference is a name or an address, which do not depend on the folder."""
    path = Path(reference)
    return "://" in reference or (path.suffix != store.SUFFIX and path.parent == Path())
