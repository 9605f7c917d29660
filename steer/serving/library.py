"""The vectors and recipes that requests can name, and the fields of steering.

    "steer": "joyful:2@2"                                        as -v
    "steer": ["joyful:2@2", {"vector": "sea", "coefficient": -1, "layers": [14]}]
    "when": "sea>0.2"     "guard": "troll>0.5", "on_trip": "stop"     "watch": ["joyful"]
    "condition": "You are a pirate.", "strength": 1.5
    "prefill": "Ahoy"     "cost": true

Omitted parts are taken from the file's recommendation. Without `steer`, the server's default steers
act (`steer serve -v`); an empty list means no steering. The model `MODEL:NAME` is the model with
the vector or recipe NAME. All files are read at the start: a request opens no file. No torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from steer.base.errors import SteerError, UsageError, VectorError
from steer.base.files import safe_name
from steer.base.shipped import SHIPPED
from steer.serving.errors import RequestError
from steer.steering import projection, recipe, spec
from steer.steering.generation import Guide
from steer.steering.named import NamedSteer, resolved
from steer.steering.operation import RECOMMENDED, Coefficient
from steer.steering.projection import Gate, Guard, OnTrip, Projection, reading_layer
from steer.steering.scope import Scope
from steer.steering.steers import (
    Steer,
    check_all_fit,
    check_fits,
    recommended_operation,
    resolve,
    usual_scope,
)
from steer.vectors import store
from steer.vectors.metadata import LayerStatistics, Metadata
from steer.vectors.provenance import ModelIdentity
from steer.vectors.rendering import TemplateSettings, settings_for, with_arguments
from steer.vectors.sites import listed
from steer.vectors.vector import SteeringVector

Result = TypeVar("Result")

#: The largest coefficient, in vectors; larger ones overflow.
LARGEST = 1000.0
#: The fields of a body that this module reads.
FIELDS = (
    "steer",
    "when",
    "guard",
    "on_trip",
    "watch",
    "condition",
    "strength",
    "prefill",
    "cost",
    "allow_idle",
)
_MOST, _MOST_GUIDES = 16, 4
_TokenId = Annotated[int, Meta(ge=0, le=2**31)]
_Prompt = Annotated[str, Meta(min_length=1)]
_Text = Annotated[str, Meta(min_length=1, max_length=200)]
_Layers = Annotated[tuple[int, ...], Meta(min_length=1, max_length=1000)]


class SteerObject(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An element of `steer` as an object instead of a text."""

    vector: _Text
    coefficient: float | _Text | None = None
    layers: _Layers | Literal["all"] | None = None
    op: _Text | None = None
    scope: _Text | None = None
    schedule: _Text | None = None
    when: _Text | None = None

    def text(self) -> str:
        """This steer in the grammar of `-v`.

        Raises:
            UsageError: a part contains a character that would end it.
        """
        for name in ("coefficient", "op", "scope", "schedule"):
            value = getattr(self, name)
            marks = ":@\\" if name in ("scope", "schedule") else ":@\\/,"
            if name == "op":
                marks = marks.replace(",", "")
            if isinstance(value, str) and any(mark in value for mark in marks):
                raise UsageError(f"{value!r} is not a {name}")
        layers = self.layers
        if isinstance(layers, tuple) and (len(set(layers)) < len(layers) or min(layers) < 0):
            raise UsageError("layers are whole numbers from 0, each once")
        if self.op is not None and self.op[0] in "+-.0123456789":
            raise UsageError(f"{self.op!r} is not an op", hint="the coefficient has its own field")
        amount = [str(part) for part in (self.coefficient, self.op) if part is not None]
        text = f"{self.vector}:{','.join(amount) or RECOMMENDED}"
        if layers is not None:
            text += f"@{layers if isinstance(layers, str) else ','.join(map(str, layers))}"
        return "/".join([text, *(part for part in (self.scope, self.schedule) if part)])


class SteeringFields(msgspec.Struct, frozen=True):
    """The fields of steering in a body."""

    steer: (
        _Text
        | SteerObject
        | Annotated[tuple[_Text | SteerObject, ...], Meta(max_length=_MOST)]
        | None
    ) = None
    when: _Text | None = None
    guard: _Text | Annotated[tuple[_Text, ...], Meta(max_length=_MOST)] | None = None
    on_trip: OnTrip | None = None
    watch: _Text | Annotated[tuple[_Text, ...], Meta(max_length=_MOST)] | None = None
    condition: _Prompt | Annotated[tuple[_Prompt, ...], Meta(max_length=_MOST_GUIDES)] | None = None
    strength: float | Annotated[tuple[float, ...], Meta(max_length=_MOST_GUIDES)] | None = None
    prefill: str | Annotated[tuple[_TokenId, ...], Meta(max_length=100_000)] | None = None
    cost: bool | None = None
    allow_idle: bool | None = None


@dataclass(frozen=True)
class Steering:
    """How the texts of a request are steered, guarded, guided and watched.

    settings: of a recipe, as defaults of the request. prefill: the beginning of each text, as text
    or token ids. cost: whether to report the cost of steering for each text. allow_idle: whether a
    steer may have no effect.
    """

    steers: tuple[Steer, ...] = ()
    guards: tuple[Guard, ...] = ()
    watched: tuple[Projection, ...] = ()
    guides: tuple[Guide, ...] = ()
    prefill: str | tuple[int, ...] = ()
    cost: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    allow_idle: bool = False

    @property
    def vectors(self) -> list[SteeringVector]:
        """All vectors that are used, each once."""
        steering = [vector for steer in self.steers for vector in steer.vectors]
        read = [guard.threshold.projection.vector for guard in self.guards]
        return list(
            dict.fromkeys([*steering, *read, *(projection.vector for projection in self.watched)])
        )

    def template_settings(
        self, started: TemplateSettings, arguments: Mapping[str, Any]
    ) -> tuple[TemplateSettings, list[str]]:
        """The settings of the chat template for a request, and notes on them for its client.

        started: the server's settings. arguments: of the request, which take precedence. Without
        any, those with which the vectors were recorded are used.

        Raises:
            RequestError: the template does not have an argument.
        """
        settings = started
        for name, value in arguments.items():
            try:
                settings = with_arguments(settings, {name: value})
            except UsageError as error:
                raise RequestError(str(error), param=f"chat_template_kwargs.{name}") from None
        reads = [(vector.name, vector.metadata.read) for vector in self.vectors]
        settings, notes, warnings = settings_for(settings, reads)
        return settings, [*notes, *warnings]


@dataclass(frozen=True)
class Recipe:
    """A recipe with its vectors. settings: as its [generation] has them."""

    description: str
    steers: tuple[Steer, ...]
    settings: Mapping[str, Any]


@dataclass
class Library:
    """The vectors and recipes that requests can name, and the default steers.

    allow_idle: the default of requests. unsaved: vectors that were made on the page and are not
    saved yet.
    """

    vectors: dict[str, SteeringVector]
    recipes: dict[str, Recipe] = field(default_factory=dict)
    defaults: tuple[Steer, ...] = ()
    allow_idle: bool = False
    unsaved: set[str] = field(default_factory=set)

    def steering(self, fields: Mapping[str, Any], alias: str | None = None) -> Steering:
        """Parse the fields of steering of a body. alias: the vector or recipe in the name of its
        model.

        Raises:
            RequestError: they are invalid, or name something unknown.
        """
        try:
            parsed = msgspec.convert(dict(fields), SteeringFields)
        except msgspec.ValidationError as error:
            name = next((field for field in FIELDS if f"$.{field}" in str(error)), "steer")
            raise RequestError(f"{name}: {error}", param=name, code="bad_steer") from None
        steers, settings = self._steers(parsed, alias)
        if parsed.when is not None:
            steers = self._gated(steers, parsed.when)
        if parsed.on_trip is not None and not _several(parsed.guard):
            raise RequestError("on_trip needs a guard", param="on_trip", code="bad_steer")
        guards = [
            self._read("guard", partial(self._guard, text, parsed.on_trip or "stop"))
            for text in _several(parsed.guard)
        ]
        watched = [
            self._read("watch", partial(self._projection, text)) for text in _several(parsed.watch)
        ]
        guides = self._read("strength", partial(_guides, parsed))
        if guides and (guards or watched or any(steer.gate for steer in steers)):
            raise RequestError(
                "a guided text is written by several runs at once: condition goes with no gate,"
                " guard or watch",
                param="condition",
                code="bad_steer",
            )
        return Steering(
            tuple(steers),
            tuple(guards),
            tuple(dict.fromkeys(watched)),
            tuple(guides),
            parsed.prefill or (),
            bool(parsed.cost),
            settings,
            self.allow_idle if parsed.allow_idle is None else parsed.allow_idle,
        )

    def _steers(
        self, parsed: SteeringFields, alias: str | None
    ) -> tuple[list[Steer], Mapping[str, Any]]:
        if parsed.steer is None:
            if alias in self.recipes:
                return list(self.recipes[alias].steers), self.recipes[alias].settings
            if alias is not None:
                return self._steers_of(alias, "model"), {}
            return list(self.defaults), {}
        if alias is not None:
            raise RequestError(
                f"the model is steered by {alias!r} already: with 'steer', name the model without"
                " it",
                param="model",
                code="bad_steer",
            )
        several = isinstance(parsed.steer, tuple)
        steers: list[Steer] = []
        for index, item in enumerate(_several(parsed.steer)):
            steers += self._steers_of(item, f"steer[{index}]" if several else "steer")
        return steers, {}

    def _steers_of(self, item: str | SteerObject, where: str) -> list[Steer]:
        try:
            if isinstance(item, str) and item.strip() in self.recipes:
                return list(self.recipes[item.strip()].steers)
            typed = spec.parse(item if isinstance(item, str) else item.text())
            reference = typed.reference if isinstance(item, str) else item.vector
            vector = self._vector(reference, f"{where}.vector")
            when = None if isinstance(item, str) else item.when
            steer = resolve(typed, vector, None if when is None else self._gate(when))
            _check_size(steer.coefficient)
        except SteerError as error:
            raise _request_error(error, where) from None
        return [steer]

    def _vector(self, name: str, where: str) -> SteeringVector:
        vector = self.vectors.get(name)
        if vector is None:
            names = sorted([*self.vectors, *self.recipes])
            close = difflib.get_close_matches(name, names, n=1)
            suggestion = f" (did you mean {close[0]!r}?)" if close else ""
            raise RequestError(
                f"there is no vector {name[:100]!r}{suggestion}; this server has {listed(names)}",
                status=404,
                param=where,
                code="vector_not_found",
            )
        return vector

    def _gated(self, steers: Sequence[Steer], when: str) -> list[Steer]:
        if not steers:
            raise RequestError("when has no steer to gate", param="when", code="bad_steer")
        if any(steer.gate is not None for steer in steers):
            raise RequestError(
                "a steer has one gate: leave one of the two out", param="when", code="bad_steer"
            )
        return self._read(
            "when", lambda: [replace(steer, gate=self._gate(when)) for steer in steers]
        )

    def _gate(self, when: str) -> Gate:
        threshold = spec.parse_threshold(when)
        return projection.gate(threshold, self._vector(threshold.read.reference, "when"))

    def _guard(self, text: str, on_trip: OnTrip) -> Guard:
        threshold = spec.parse_threshold(text)
        return projection.guard(threshold, self._vector(threshold.read.reference, "guard"), on_trip)

    def _projection(self, text: str) -> Projection:
        read = spec.parse_read(text)
        return projection.projection(read, self._vector(read.reference, "watch"))

    def _read(self, where: str, make: Callable[[], Result]) -> Result:
        try:
            return make()
        except SteerError as error:
            raise _request_error(error, where) from None

    def alias(self, model: str, served: str) -> str | None:
        """The vector or recipe in a model's name, if any."""
        base, colon, name = model.rpartition(":")
        known = name in self.vectors or name in self.recipes
        return name if colon and base == served and known else None

    def models(self, served: str) -> list[str]:
        """The names of a served model: its own, and with each vector and recipe."""
        return [served, *(f"{served}:{name}" for name in (*self.vectors, *self.recipes))]

    def leave_out(self, name: str) -> None:
        """Remove a vector, and the recipes that need it."""
        vector = self.vectors.pop(name)
        self.recipes = {
            title: recipe
            for title, recipe in self.recipes.items()
            if all(vector not in steer.vectors for steer in recipe.steers)
        }

    @property
    def names(self) -> dict[SteeringVector, str]:
        """The name of each vector."""
        return {vector: name for name, vector in self.vectors.items()}

    def name(self, vector: SteeringVector) -> str:
        """A vector's name in requests, or its own name if they cannot use it."""
        return self.names.get(vector, vector.name)

    def vector_list(self) -> dict[str, Any]:
        """The vectors, for clients."""
        data = [
            describe(name, vector.metadata) | {"saved": name not in self.unsaved}
            for name, vector in sorted(self.vectors.items())
        ]
        return {"object": "list", "data": data}

    def recipe_list(self) -> list[dict[str, Any]]:
        """The recipes, for clients."""
        return [
            {
                "id": name,
                "description": recipe.description,
                "steers": [self.as_request(steer) for steer in recipe.steers],
                "settings": dict(recipe.settings),
            }
            for name, recipe in sorted(self.recipes.items())
        ]

    def as_request(self, steer: Steer) -> dict[str, Any]:
        """A steer in the format of requests, with all parts explicit."""
        amount = steer.coefficient
        fields = {
            "vector": self.name(steer.vector),
            "coefficient": amount.value if amount.unit == "vector" else str(amount),
            "layers": list(steer.layers),
            "op": str(steer.op),
            "scope": str(steer.scope),
            "schedule": str(steer.schedule),
        }
        if steer.gate is not None:
            read = steer.gate.threshold.projection
            own = f"{self.name(read.vector)}@{read.layer}"
            sign = ">" if steer.gate.threshold.above else "<"
            fields["when"] = f"{own}{sign}{steer.gate.threshold.value!r}/{steer.gate.pooling}"
        return fields


def read_library(
    folder: Path,
    usable: Callable[[SteeringVector], None] = lambda vector: None,
    *,
    may_be_empty: bool = False,
) -> tuple[Library, list[str]]:
    """The vectors and recipes of a folder by file name, and a note on each file that is left out.

    usable: raises a SteerError if a vector cannot be used. may_be_empty: allow a folder that is
    empty or missing, since vectors can be made later.

    Raises:
        SteerError: the folder does not exist.
        VectorError: none of its vectors can be used.
    """
    if not folder.is_dir():
        if may_be_empty:
            return Library({}), []
        raise SteerError(f"there is no folder {folder}", hint="name one with --vectors")

    def read(path: Path) -> SteeringVector:
        _check_name(path)
        vector = store.read(path)
        usable(vector)
        return vector

    reads = {path.stem: partial(read, path) for path in store.files(folder)}
    library, notes = _load_all(reads, str(folder), may_be_empty=may_be_empty and not reads)
    more = add_recipes(library, sorted(folder.glob("*.toml")), folder, usable)
    return library, [*notes, *more]


def add_shipped(library: Library, usable: Callable[[SteeringVector], None]) -> None:
    """Add the vectors that come with steer, for its own model, under names that are free."""
    for path in store.files(SHIPPED):
        if path.stem not in library.vectors:
            vector = store.read(path)
            usable(vector)
            library.vectors[path.stem] = vector


def add_recipes(
    library: Library,
    files: Sequence[Path],
    folder: Path,
    usable: Callable[[SteeringVector], None] = lambda vector: None,
) -> list[str]:
    """Add recipes under their files' names, and return a note on each that is left out."""
    notes = []
    for path in files:
        try:
            _check_name(path)
            if path.stem in library.vectors:
                raise VectorError("a vector has the same name")
            written = recipe.read(path)
            steers = resolved(written.steers, finder(folder))
            for vector in {vector for steer in steers for vector in steer.vectors}:
                usable(vector)
            library.recipes[path.stem] = Recipe(
                written.description, tuple(steers), written.generation
            )
        except SteerError as error:
            notes.append(f"{path.stem} is left out: {error}")
    return notes


def set_defaults(
    library: Library,
    defaults: Sequence[NamedSteer | Steer],
    folder: Path,
    find: Callable[[str], Path],
) -> None:
    """Set the default steers; names are looked up in the server's folder first. Requests can then
    name these vectors too.

    Raises:
        SteerError: as in `steer.steering.named.resolved`.
    """
    named = iter(
        resolved([item for item in defaults if isinstance(item, NamedSteer)], finder(folder, find))
    )
    library.defaults = tuple(
        next(named) if isinstance(item, NamedSteer) else item for item in defaults
    )
    known = {vector.sha256: vector for vector in library.vectors.values()}
    for vector in (used for steer in library.defaults for used in steer.vectors):
        if vector.sha256 not in known:
            library.vectors.setdefault(vector.name, vector)


def finder(folder: Path, find: Callable[[str], Path] = store.find) -> Callable[[str], Path]:
    """A function from references to files; names are looked up in `folder` first."""

    def find_here(reference: str) -> Path:
        own = folder / f"{reference}{store.SUFFIX}"
        return own if safe_name(reference) and own.is_file() else find(reference)

    return find_here


def for_model(
    library: Library,
    model: ModelIdentity,
    *,
    allow_other_model: bool = False,
    may_be_empty: bool = False,
) -> tuple[Library, list[str]]:
    """The part of a library that fits a model, and notes for the user.

    Raises:
        VectorError: no vector fits.
        ModelError, SiteError: the default steers do not fit.
    """
    warnings: list[str] = []

    def fits(vector: SteeringVector) -> SteeringVector:
        warnings.extend(check_fits(vector, model, allow_other_model=allow_other_model))
        return vector

    def all_fit(steers: Sequence[Steer]) -> None:
        used = [vector for steer in steers for vector in steer.vectors]
        warnings.extend(check_all_fit(used, model, allow_other_model=allow_other_model))

    checks = {name: partial(fits, vector) for name, vector in library.vectors.items()}
    kept, notes = _load_all(checks, model.id, may_be_empty=may_be_empty)
    for name, named in library.recipes.items():
        try:
            all_fit(named.steers)
            kept.recipes[name] = named
        except SteerError as error:
            notes.append(f"{name} is left out: {error}")
    all_fit(library.defaults)
    kept.defaults = library.defaults
    return kept, list(dict.fromkeys([*warnings, *notes]))


def _load_all(
    wanted: Mapping[str, Callable[[], SteeringVector]], where: str, *, may_be_empty: bool
) -> tuple[Library, list[str]]:
    vectors, notes = {}, []
    for name, get in wanted.items():
        try:
            vectors[name] = get()
        except SteerError as error:
            notes.append(f"{name} is left out: {error}")
    if not vectors and not may_be_empty:
        raise VectorError(
            "; ".join([f"there is no vector to serve from {where}", *notes]),
            hint="name a folder with --vectors",
        )
    return Library(vectors), notes


def _check_name(path: Path) -> None:
    if not safe_name(path.stem):
        raise VectorError(f"{path.stem!r} is not a valid name for requests")


def describe(name: str, metadata: Metadata) -> dict[str, Any]:
    """A vector, as `GET /v1/vectors` lists it under a name."""
    recommended = metadata.recommended
    usual = Coefficient(recommended.coefficient, recommended.unit)
    return {
        "id": name,
        "object": "vector",
        "description": metadata.description,
        "site": metadata.site,
        "layers": list(metadata.layers),
        "rank": metadata.rank,
        **({"tokens": metadata.tokens} if metadata.tokens else {}),
        "recommended": {
            "coefficient": usual.value if usual.unit == "vector" else str(usual),
            "layers": list(recommended.layers),
            "op": recommended.op,
            "scope": str(_scope(metadata)),
        },
        "evidence": recommended.evidence,
        "swept": recommended.chosen_on is not None,
        "limit": recommended.limit and recommended.limit / recommended.coefficient,
        "license": metadata.license,
        "method": metadata.method.name,
        "read": {"positions": metadata.read.positions, "chat": metadata.read.chat is True},
        "contrast": {"kind": metadata.contrast.kind, "n": metadata.contrast.n},
        "watch_layer": _watch_layer(metadata),
        "statistics": [_statistics(row) for row in metadata.statistics],
    }


def _scope(metadata: Metadata) -> Scope:
    """The default scope of a vector."""
    try:
        return usual_scope(metadata, recommended_operation(metadata))
    except VectorError:  # an op of a later version, which no request can leave out
        return usual_scope(metadata)


def _watch_layer(metadata: Metadata) -> int | None:
    """The layer that `watch` reads; None where projections have no units."""
    layer = reading_layer(metadata)
    row = metadata.at(layer)
    has_units = row.positive and row.negative and row.positive.mean != row.negative.mean
    return layer if has_units else None


def _statistics(row: LayerStatistics) -> dict[str, Any]:
    return {
        "layer": row.layer,
        "norm": row.norm,
        "resid_norm": row.resid_norm,
        "separability": row.separability,
        "neg": row.negative and row.negative.mean,
        "pos": row.positive and row.positive.mean,
    }


def _several(value: Any) -> Sequence[Any]:
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (value,)


def _guides(parsed: SteeringFields) -> list[Guide]:
    """Conditions with their strengths: by default 1, one for all, or one for each.

    Raises:
        UsageError: there are strengths without a condition, or the numbers differ.
    """
    conditions, strengths = _several(parsed.condition), _several(parsed.strength)
    if len(strengths) not in (0, 1, len(conditions)) or (strengths and not conditions):
        raise UsageError(
            f"{len(strengths)} strengths for {len(conditions)} conditions: name one for all, or one"
            " for each"
        )
    each = strengths if len(strengths) > 1 else [*strengths, 1.0][:1] * len(conditions)
    return [Guide(*pair) for pair in zip(conditions, each, strict=True)]


def _check_size(coefficient: Coefficient) -> None:
    if not abs(coefficient.value) <= LARGEST:
        raise UsageError(
            f"the coefficient {coefficient} is not between -{LARGEST:g} and {LARGEST:g}"
        )


def _request_error(error: SteerError, where: str) -> RequestError:
    hint = f" ({error.hint})" if error.hint else ""
    return RequestError(f"{where}: {error}{hint}", param=where, code="bad_steer")
