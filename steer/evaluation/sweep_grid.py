"""The grid of a sweep, from names of vectors, layers and coefficients. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from steer.base.errors import UsageError
from steer.base.files import check_writable
from steer.base.urls import is_url, without_passwords
from steer.measures.grids import MULTIPLES, Grid, GridRow, default_coefficients
from steer.steering.operation import Coefficient, Operation, parse_coefficient
from steer.steering.scope import CONSTANT, Scope
from steer.steering.spec import SteerSpec, parse
from steer.steering.steers import Steer, recommended_operation, usual_scope
from steer.vectors import store
from steer.vectors.sites import parse_layers
from steer.vectors.vector import SteeringVector

Rule = Literal["budget", "refusal_direction"]
RULES: tuple[Rule, ...] = ("budget", "refusal_direction")


def grid_of(
    vectors: str | Path | SteeringVector | Sequence[str | Path | SteeringVector],
    layers: str | Sequence[int] | None = None,
    coefficients: str | Sequence[float | str] | None = None,
    *,
    together: bool = False,
    rule: str = "budget",
    save: bool = False,
    find: Callable[[str], Path] = store.find,
) -> Grid:
    """The cells of a sweep: each vector at each of its layers, with each of the coefficients.

    vectors: names, paths, or vectors; also with an op and a scope, as in `joyful:ablate/response`.
    layers: such as `2,5` or `4-7`; by default all that are stored, each alone, and together those
    that the file recommends together. coefficients: such as `5%,10%` (of the activations' length)
    or `0.5,1` (times the vector); by default nine that suit the vector and the op. together: steer
    at all layers at once. save: check that the vectors' files can be written. find: gives the file
    of a name.

    Raises:
        UsageError: a spec with numbers, a repeated vector or coefficient, or a percentage of a
            low-rank edit.
        VectorError: a vector cannot be read, or lacks a layer.
    """
    if rule not in RULES:
        raise UsageError(f"{rule!r} is not a rule", hint="use budget or refusal_direction")
    if isinstance(vectors, (str, Path, SteeringVector)):
        vectors = [vectors]
    specs = [
        SteerSpec(item.name) if isinstance(item, SteeringVector) else _spec(str(item))
        for item in vectors
    ]
    if len({(spec, id(item) if isinstance(item, SteeringVector) else 0)
            for spec, item in zip(specs, vectors, strict=True)}) < len(specs):  # fmt: skip
        raise UsageError("a vector twice, by the same op")
    for spec, item in zip(specs, vectors, strict=True):
        if save and not isinstance(item, SteeringVector):
            _check_savable(spec.reference)
    rows = []
    for spec, item in zip(specs, vectors, strict=True):
        vector = item if isinstance(item, SteeringVector) else store.read(find(spec.reference))
        _ = vector.metadata.activation_site  # a learned token has none
        op = spec.op or recommended_operation(vector.metadata)
        columns = _coefficients(coefficients, vector, op, rule)
        scope = spec.scope or replace(
            usual_scope(vector.metadata, op), skip_special=spec.skip_special
        )
        for chosen in _layers(layers, vector, together=together):
            reference = without_passwords(spec.reference)  # reports show it
            row = GridRow(vector, chosen, columns, reference, op, scope)
            row.steer(0)  # raises before the model is loaded
            rows.append(row)
        if layers is None and coefficients is None and rule == "budget" and not together:
            rows += _calibrated(vector, without_passwords(spec.reference), op, scope)
    return Grid(tuple(rows))


def _calibrated(
    vector: SteeringVector, reference: str, op: Operation, scope: Scope
) -> list[GridRow]:
    """A row of all layers that the file of a calibrated vector recommends together, with
    coefficients from a tenth to twice the recommended one."""
    recommended = vector.metadata.recommended
    is_alike = op.name == "add" == recommended.op_name and recommended.unit == "vector"
    plain_vector = not vector.metadata.rank and vector.metadata.method.name != "distill"
    if len(recommended.layers) < 2 or not (is_alike and plain_vector and recommended.coefficient):
        return []
    columns = tuple(Coefficient(float(f"{recommended.coefficient * m:.3g}")) for m in MULTIPLES)
    return [GridRow(vector, recommended.layers, columns, reference, op, scope)]


def _check_savable(reference: str) -> None:
    if is_url(reference):
        raise UsageError(
            f"--save needs a file on this machine, but {reference} is elsewhere",
            hint=f"get a copy with `steer pull {reference}` and sweep that, or leave --save out",
        )
    path = store.find(reference)
    store.check_own(path)
    check_writable(path, force=True)


def _spec(text: str) -> SteerSpec:
    parsed = parse(text)
    if parsed.coefficient is not None or parsed.layers is not None:
        raise UsageError(
            f"{text!r}: a sweep chooses layers and coefficients itself",
            hint="use --coefficients and --layers",
        )
    if parsed.schedule != CONSTANT:
        raise UsageError(
            f"{text!r}: a sweep steers all tokens of its scope alike",
            hint="measure schedules with `steer eval`",
        )
    return parsed


def _coefficients(
    typed: str | Sequence[float | str] | None, vector: SteeringVector, op: Operation, rule: str
) -> tuple[Coefficient, ...]:
    if typed is None:
        chosen = default_coefficients(vector, op)
    else:
        parts = typed.split(",") if isinstance(typed, str) else [str(part) for part in typed]
        chosen = tuple(parse_coefficient(part.strip(), part) for part in parts)
    if rule == "refusal_direction" and all(each.value > 0 for each in chosen):
        chosen += tuple(Coefficient(-each.value, each.unit) for each in chosen)
    if len(set(chosen)) < len(chosen):
        raise UsageError(f"a coefficient twice in {typed!r}")
    if any(each.unit == "residual" for each in chosen) and vector.metadata.rank:
        raise UsageError(
            f"vector {vector.name!r} is a low-rank edit, which has no single length",
            hint="write multiples of it, such as 0.5,1,1.5",
        )
    return chosen


def _layers(
    typed: str | Sequence[int] | None, vector: SteeringVector, *, together: bool
) -> tuple[tuple[int, ...], ...]:
    metadata = vector.metadata
    layers = metadata.layers
    if typed is not None:
        layers = parse_layers(typed) if isinstance(typed, str) else tuple(sorted(set(typed)))
    metadata.check_layers(layers)
    # A distilled edit of several layers is meant to act at all of them.
    if together or (metadata.method.name == "distill" and typed is None):
        return (layers,)
    return tuple((layer,) for layer in layers)


def strongest(grid: Grid) -> list[Steer]:
    """The strongest steer of each row, to prepare an engine, which does not depend on strength."""

    def amount(steer: Steer) -> float:
        return abs(steer.coefficient.value)

    rows = grid.rows
    return [max((row.steer(i) for i in range(len(row.coefficients))), key=amount) for row in rows]
