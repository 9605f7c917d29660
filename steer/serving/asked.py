"""The field `steer` of a request: vectors by name, out of a folder that the server was given.

    "steer": [{"vector": "joyful", "coefficient": 2, "layers": [14]}]

What is left out is taken from the file's recommendation. `op`, `scope` and `schedule` are written
as in `-v`. Names are looked up among what was read at start: a request opens no file. No torch.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from steer.base.errors import SteerError, UsageError, VectorError
from steer.base.files import safe_name
from steer.serving.refused import RequestError
from steer.steering.operation import Coefficient, Operation, parse_amount, parse_coefficient
from steer.steering.scope import parse_when
from steer.steering.spec import SteerSpec
from steer.steering.steers import Steer, check_fits, resolve
from steer.vectors import store
from steer.vectors.metadata import Metadata
from steer.vectors.provenance import ModelIdentity
from steer.vectors.sites import listed
from steer.vectors.vector import SteeringVector

#: Of the coefficient, in vectors; further out numbers overflow, and no text comes of it.
LARGEST = 1000.0
_Text = Annotated[str, Meta(max_length=100)]
_Layers = Annotated[tuple[int, ...], Meta(min_length=1, max_length=1000)]


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One element of `steer`, as it arrives."""

    vector: str
    coefficient: float | _Text | None = None
    layers: _Layers | Literal["all"] | None = None
    op: _Text | None = None
    scope: _Text | None = None
    schedule: _Text | None = None


_All = Annotated[tuple[Asked, ...], Meta(max_length=16)]


@dataclass(frozen=True)
class Shelf:
    """The vectors that requests can name."""

    vectors: Mapping[str, SteeringVector]

    def steers(self, asked: Any) -> list[Steer]:
        """What the field asks for; None and an empty list ask for nothing.

        Raises:
            RequestError: it is made otherwise, or names what is not there.
        """
        if asked is None:
            return []
        try:
            every = msgspec.convert(asked, _All)
        except msgspec.ValidationError as error:
            raise RequestError(f"steer: {error}", param="steer", code="bad_steer") from None
        return [self._steer(one, f"steer[{index}]") for index, one in enumerate(every)]

    def _steer(self, asked: Asked, where: str) -> Steer:
        vector = self.vectors.get(asked.vector)
        if vector is None:
            close = difflib.get_close_matches(asked.vector, self.vectors, n=1)
            meant = f" (did you mean {close[0]!r}?)" if close else ""
            raise RequestError(
                f"there is no vector {asked.vector[:100]!r}{meant}; this server has"
                f" {listed(sorted(self.vectors))}",
                status=404,
                param=f"{where}.vector",
                code="vector_not_found",
            )
        try:
            return resolve(_spec(asked), vector)
        except SteerError as error:
            raise RequestError(f"{where}: {error}", param=where, code="bad_steer") from None

    @cached_property
    def names(self) -> dict[SteeringVector, str]:
        return {vector: name for name, vector in self.vectors.items()}

    def told(self) -> dict[str, Any]:
        """What there is, for clients to look up."""
        data = [_described(name, one.metadata) for name, one in sorted(self.vectors.items())]
        return {"object": "list", "data": data}

    def as_asked(self, steer: Steer) -> dict[str, Any]:
        """A steer as a request would have it, with nothing left to the file."""
        amount = steer.coefficient
        return {
            "vector": self.names[steer.vector],
            "coefficient": amount.value if amount.unit == "vector" else str(amount),
            "layers": list(steer.layers),
            "op": str(steer.op),
            "scope": str(steer.scope),
            "schedule": str(steer.schedule),
        }


def read_shelf(
    folder: Path, usable: Callable[[SteeringVector], None] = lambda vector: None
) -> tuple[Shelf, list[str]]:
    """The vectors of a folder by their files' names, and why others are left out; `usable` raises
    a SteerError of those that could not be used.

    Raises:
        SteerError: there is no such folder.
        VectorError: none of its vectors can be used.
    """
    if not folder.is_dir():
        raise SteerError(f"there is no folder {folder}", hint="name one with --vectors")

    def read(path: Path) -> SteeringVector:
        if not safe_name(path.stem):
            raise VectorError(f"{path.stem!r} is no name that a request could have")
        vector = store.read(path)
        usable(vector)
        return vector

    return _shelf({path.stem: partial(read, path) for path in store.files(folder)}, str(folder))


def fitting(
    shelf: Shelf, model: ModelIdentity, *, allow_other_model: bool = False
) -> tuple[Shelf, list[str]]:
    """The vectors that fit a model, and what is to be known of them and of the others.

    Raises:
        VectorError: none does.
    """
    warnings = []

    def fits(vector: SteeringVector) -> SteeringVector:
        warnings.extend(check_fits(vector, model, allow_other_model=allow_other_model))
        return vector

    checks = {name: partial(fits, vector) for name, vector in shelf.vectors.items()}
    made, notes = _shelf(checks, model.id)
    return made, list(dict.fromkeys([*warnings, *notes]))


def _shelf(
    wanted: Mapping[str, Callable[[], SteeringVector]], where: str
) -> tuple[Shelf, list[str]]:
    vectors, notes = {}, []
    for name, get in wanted.items():
        try:
            vectors[name] = get()
        except SteerError as error:
            notes.append(f"{name} is left out: {error}")
    if not vectors:
        raise VectorError(
            "; ".join([f"there is no vector to serve from {where}", *notes]),
            hint="name a folder with --vectors",
        )
    return Shelf(vectors), notes


def _described(name: str, metadata: Metadata) -> dict[str, Any]:
    recommended = metadata.recommended
    usual = Coefficient(recommended.coefficient, recommended.unit)
    return {
        "id": name,
        "object": "vector",
        "description": metadata.description,
        "site": metadata.site,
        "layers": list(metadata.layers),
        "rank": metadata.rank,
        "recommended": {
            "coefficient": usual.value if usual.unit == "vector" else str(usual),
            "layers": list(recommended.layers),
            "op": recommended.op,
        },
    }


def _spec(asked: Asked) -> SteerSpec:
    """The same as `-v` has it.

    Raises:
        UsageError: a part means nothing.
    """
    operation = _operation(asked.op)
    parts = [part for text in (asked.scope, asked.schedule) if text for part in text.split("/")]
    scope, skip_special, schedule = parse_when(parts)
    layers = asked.layers
    if layers is not None and layers != "all" and len(set(layers)) < len(layers):
        raise UsageError("a layer stands twice in layers")
    coefficient = _coefficient(asked.coefficient)
    return SteerSpec(asked.vector, coefficient, layers, scope, operation, schedule, skip_special)


def _operation(text: str | None) -> Operation | None:
    if text is None:
        return None
    coefficient, operation = parse_amount(text, text)
    if coefficient is not None:
        raise UsageError(f"{text!r} is not an op", hint="the coefficient is a field of its own")
    return operation


def _coefficient(asked: float | str | None) -> Coefficient | None:
    if asked is None:
        return None
    made = parse_coefficient(asked, asked) if isinstance(asked, str) else Coefficient(asked)
    if not math.isfinite(made.value) or abs(made.value) > LARGEST:
        raise UsageError(f"the coefficient {asked} is not between -{LARGEST:g} and {LARGEST:g}")
    return made
