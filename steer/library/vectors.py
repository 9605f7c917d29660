"""`steer.Vector`: a steering vector as a value, with arithmetic, and steers made from it."""

from __future__ import annotations

import html
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from steer.base.errors import UsageError, VectorError
from steer.fitting.warnings import warnings
from steer.sharing import fetch
from steer.steering import projection, spec
from steer.steering.algebra import combine, likenesses
from steer.steering.named import NamedSteer, resolved
from steer.steering.operation import RECOMMENDED, Coefficient
from steer.steering.projection import ON_TRIP, Gate, Guard, OnTrip, Projection
from steer.steering.recipe import Recipe
from steer.steering.steers import Steer, resolve
from steer.vectors import store
from steer.vectors.metadata import Metadata, to_json
from steer.vectors.sites import format_layers, parse_layers
from steer.vectors.vector import SteeringVector

Array = NDArray[np.float32]


class Vector:
    """A steering vector: directions at one site of one or more layers, with metadata.

    A vector is a value: it never changes. `a + b`, `a - b`, `2 * a`, `-a` and `a / 2` give new
    vectors at the layers that both have (task arithmetic: Ilharco et al. 2022, arXiv 2212.04089).
    Called, it gives a steer: `warm(2, layers=12, scope="response")`.
    """

    def __init__(self, data: SteeringVector) -> None:
        self._data = data

    @property
    def data(self) -> SteeringVector:
        """The numbers and metadata as the rest of steer takes them."""
        return self._data

    @property
    def metadata(self) -> Metadata:
        """Everything that the vector's file says about it."""
        return self._data.metadata

    @property
    def name(self) -> str:
        """The name in the vector's file."""
        return self._data.name

    @property
    def site(self) -> str:
        """The site of the vector: resid_post, resid_pre, attn_out or mlp_out."""
        return self.metadata.site

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that it has a direction for."""
        return self.metadata.layers

    @property
    def rank(self) -> int:
        """Rank of a low-rank edit; 0 for a plain vector."""
        return self.metadata.rank

    @property
    def warnings(self) -> list[str]:
        """Doubts about the quality of the vector, each with advice; empty if there are none."""
        return warnings(self.metadata)

    def numpy(self) -> Array:
        """The directions in activation units: float32 [d_model] of one layer, else
        [layers, d_model]."""
        directions = np.array(self._data.directions)
        return directions[0] if len(directions) == 1 else directions

    def at(self, layers: int | Iterable[int]) -> Vector:
        """The vector with only these of its layers.

        Raises:
            VectorError: the vector has none of them.
        """
        kept = sorted({layers} if isinstance(layers, int) else set(layers))
        self.metadata.check_layers(kept)
        if tuple(kept) == self.layers:
            return self
        return Vector(self._data.only(kept))

    def cosine(self, other: Vector) -> dict[int, float | None]:
        """Cosine with another vector at each layer that both have; None where one is zero."""
        [likeness] = likenesses([self._data, other._data])
        return dict(likeness.cosines)

    def __call__(
        self,
        amount: float | str | None = None,
        *,
        layers: int | str | Iterable[int] | None = None,
        op: str | None = None,
        scope: str | None = None,
        schedule: str | None = None,
        when: Gate | None = None,
    ) -> Steer:
        """A steer: this vector with a coefficient, op, layers, scope, schedule and gate.

        amount: a multiple of the recommended coefficient (with layers: of the stored vector), or a
        percentage of the activations' mean length, `"15%"`. layers: a number, several, `"8-12"` or
        `"all"`. op: `ablate`, `clamp=pos`, ... scope: `response`, `prompt`, `4-9`, ... schedule:
        `decay=20`, ... The syntax is that of `-v` on the command line; the file's recommendation
        fills in what is omitted. when: a gate, from `above` or `below` of a vector.

        Raises:
            UsageError: an argument is invalid.
            VectorError: the vector has no such layer, or is unsuitable for the op.
        """
        parts = [] if amount is None else [amount if isinstance(amount, str) else repr(amount)]
        parts += [] if op is None else [op]
        text = f"vector:{','.join(parts) or RECOMMENDED}"
        if layers is not None:
            text += f"@{_layers(layers)}"
        text += "".join(f"/{part}" for part in (scope, schedule) if part is not None)
        typed = spec.parse(text)
        return resolve(typed, self._data, when)

    def above(
        self, value: float | str, *, layer: int | None = None, pool: str | None = None
    ) -> Gate:
        """A gate that is open where the projection on this vector is above `value`.

        value: in the file's units (0: mean of the negative side, 1: of the positive side), or
        `"auto"`. pool: read the `mean` of the prompt, its `last` token, or each `token`.

        Raises:
            UsageError: an argument is invalid.
            VectorError: the file does not store the means of its sides.
        """
        return self._gate(">", value, layer, pool)

    def below(
        self, value: float | str, *, layer: int | None = None, pool: str | None = None
    ) -> Gate:
        """A gate that is open where the projection is below `value`; see `above`."""
        return self._gate("<", value, layer, pool)

    def _gate(self, sign: str, value: float | str, layer: int | None, pool: str | None) -> Gate:
        text = "vector" if layer is None else f"vector@{layer}"
        text += f"{sign}{value}"
        typed = spec.parse_threshold(text if pool is None else f"{text}/{pool}")
        return projection.gate(typed, self._data)

    def save(self, path: str | PathLike[str], *, force: bool = False) -> Vector:
        """Write the vector to a .safetensors file; the same vector gives the same bytes.

        Returns the vector as it was written, with its hash. force: replace a file.

        Raises:
            SteerError: the file exists, or cannot be written.
        """
        target = Path(path)
        store.check_path(target)
        return Vector(store.write(target, self._data, force=force))

    def renamed(self, name: str, *, description: str | None = None) -> Vector:
        """The same numbers under another name."""
        return Vector(self._data.renamed(name, description))

    def __add__(self, other: object) -> Vector:
        return self._combined(other, 1.0)

    def __sub__(self, other: object) -> Vector:
        return self._combined(other, -1.0)

    def __radd__(self, other: object) -> Vector:
        """`sum(vectors)` begins with 0."""
        if other == 0:
            return self
        return NotImplemented

    def __mul__(self, factor: object) -> Vector:
        if isinstance(factor, bool) or not isinstance(factor, (int, float, np.number)):
            return NotImplemented
        times = Coefficient(float(factor))
        return Vector(combine([Steer(self._data, times, self.layers)], name=self.name))

    __rmul__ = __mul__

    def __truediv__(self, divisor: object) -> Vector:
        if isinstance(divisor, bool) or not isinstance(divisor, (int, float, np.number)):
            return NotImplemented
        if divisor == 0:
            raise VectorError(f"vector {self.name!r} cannot be divided by 0")
        return self * (1.0 / float(divisor))

    def __neg__(self) -> Vector:
        return self * -1.0

    def _combined(self, other: object, sign: float) -> Vector:
        if not isinstance(other, Vector):
            return NotImplemented  # type: ignore[no-any-return]
        name = f"{self.name}{'+' if sign > 0 else '-'}{other.name}"
        parts = [
            Steer(self._data, Coefficient(1.0), self.layers),
            Steer(other._data, Coefficient(sign), other.layers),
        ]
        return Vector(combine(parts, name=name))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vector) and self._data.sha256 == other._data.sha256

    def __hash__(self) -> int:
        return hash(self._data.sha256)

    def __repr__(self) -> str:
        kind = f"rank {self.rank}, " if self.rank else ""
        where = f"{self.site} {format_layers(self.layers)}"
        return f"<Vector {self.name!r}: {kind}{where}, of {self.metadata.model.id}>"

    def to_dict(self) -> dict[str, Any]:
        """The metadata as plain values, with the keys of `steer show --json`."""
        return to_json(self.metadata)

    def to_pandas(self) -> Any:
        """One row a layer: norm, separability and the rest; a pandas DataFrame.

        Raises:
            UsageError: pandas is not installed.
        """
        return frame(self.to_dict()["statistics"])

    def _repr_html_(self) -> str:
        """The layers as a table, for a notebook."""
        columns = ("layer", "norm", "separability", "coherence")
        rows = self.to_dict()["statistics"]
        return html_table(
            repr(self), columns, [[row.get(name) for name in columns] for row in rows]
        )


#: Whatever names steers: a spec such as "warm:2@12", a vector (as its file recommends), a steer, a
#: recipe.
Steers: TypeAlias = "str | Vector | Steer | Recipe | Iterable[str | Vector | Steer] | None"


def read(reference: str | PathLike[str]) -> Vector:
    """Read a vector: a path, a name in ./vectors or $STEER_VECTORS, or an address such as
    `hf://owner/repo/warm`.

    Raises:
        VectorError: it is missing, damaged, or written by a later steer.
    """
    return Vector(store.read(fetch.find(str(reference))))


def as_vector(vector: str | PathLike[str] | Vector) -> Vector:
    """The vector itself, or the one that a name, path or address refers to.

    Raises:
        VectorError: as `read`.
    """
    return vector if isinstance(vector, Vector) else read(vector)


def parse(text: str, *, when: str | None = None) -> Steer:
    """The steer that a spec means: `warm:2@12/response`, as after `-v` on the command line.

    when: a gate, as after `--when`, such as `refusal>auto`.

    Raises:
        UsageError: the spec or the gate is invalid.
        VectorError: a vector is missing or unsuitable.
    """
    [steer] = resolved([NamedSteer(text, when=when)], fetch.find)
    return steer


def as_steers(steers: Steers) -> list[Steer]:
    """The steers that a caller named, in any of the ways that `Steers` allows.

    Raises:
        UsageError: something else is among them.
        VectorError: as `parse`.
    """
    if steers is None:
        return []
    if isinstance(steers, str):
        return [parse(steers)]
    if isinstance(steers, Vector):
        return [steers()]
    if isinstance(steers, Steer):
        return [steers]
    if isinstance(steers, Recipe):
        return resolved(steers.steers, fetch.find)
    if not isinstance(steers, Iterable):
        raise UsageError(
            f"{type(steers).__name__} is not a steer",
            hint='pass "warm:2@12", a vector, warm(2, layers=12), or a list of them',
        )
    return [steer for part in steers for steer in as_steers(part)]


def as_projections(watch: str | Projection | Iterable[str | Projection]) -> list[Projection]:
    """Projections of watched vectors: a text is a vector as after `--watch`, such as `warm@2`.

    Raises:
        UsageError: a text is invalid.
        VectorError: a vector is missing, or does not store the means of its sides.
    """
    watched = [watch] if isinstance(watch, str | Projection) else watch
    parsed = [spec.parse_read(item) if isinstance(item, str) else item for item in watched]
    return [
        projection.projection(item, read(item.reference).data)
        if isinstance(item, spec.ReadSpec)
        else item
        for item in parsed
    ]


def as_guards(guards: str | Guard | Iterable[str | Guard], on_trip: OnTrip) -> list[Guard]:
    """Guards: a text is a threshold as after `--guard`, such as `warm>0.9`.

    on_trip: what the guards do that are given as texts.

    Raises:
        UsageError: a text or `on_trip` is invalid.
        VectorError: a vector is missing, or does not store the means of its sides.
    """
    if on_trip not in ON_TRIP:
        raise UsageError(f"on_trip={on_trip!r} is unknown", hint="use stop, error or ablate")
    every = [guards] if isinstance(guards, str | Guard) else guards
    parsed = [spec.parse_threshold(item) if isinstance(item, str) else item for item in every]
    return [
        projection.guard(item, read(item.read.reference).data, on_trip)
        if isinstance(item, spec.ThresholdSpec)
        else item
        for item in parsed
    ]


def _layers(layers: int | str | Iterable[int]) -> str:
    if isinstance(layers, int):
        return str(layers)
    if isinstance(layers, str):
        return layers if layers == "all" else format_layers(parse_layers(layers))
    return ",".join(map(str, layers))


def frame(rows: list[dict[str, Any]]) -> Any:
    """A pandas DataFrame of rows; nested fields get dotted names.

    Raises:
        UsageError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise UsageError("to_pandas needs pandas", hint="pip install pandas") from None
    return pandas.json_normalize(rows)


def html_table(caption: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A plain HTML table; everything in it is escaped."""

    def cell(value: object) -> str:
        text = f"{value:.3g}" if isinstance(value, float) else "–" if value is None else str(value)
        return f"<td>{html.escape(text)}</td>"

    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return (
        f"<table><caption>{html.escape(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
