"""Which cells `steer sweep` scores: vectors and ops at their layers, with their coefficients."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from steer.cli import options

if TYPE_CHECKING:
    from steer.measures.grids import Row
    from steer.steering.operation import Coefficient, Operation
    from steer.steering.spec import SteerSpec
    from steer.steering.steers import Steer
    from steer.vectors.vector import SteeringVector


def rows_of(
    vectors: list[str],
    layers: str | None,
    coefficients: str | None,
    rule: str,
    *,
    together: bool,
    save: bool,
) -> tuple[Row, ...]:
    """What is swept: each vector at each of its layers. save: their files are to be written."""
    from steer.base.errors import UsageError
    from steer.measures.grids import Row
    from steer.sharing.address import without_passwords
    from steer.steering.operation import ADD
    from steer.steering.steers import recommended_operation, resolve
    from steer.vectors import store

    specs = [_spec(text) for text in vectors]
    if len(set(specs)) < len(specs):
        raise UsageError("a vector twice, by the same op")
    for spec in specs if save else ():
        _check_savable(spec.reference)
    rows = []
    for spec in specs:
        read = store.read(options.find(spec.reference))
        op = spec.op or recommended_operation(read.metadata)
        columns = _coefficients(coefficients, read, op, rule)
        scope = resolve(replace(spec, op=ADD), read).scope
        for row in _layers(layers, read, together=together):
            # As reports may have it.
            reference = without_passwords(spec.reference)
            made = Row(read, row, columns, reference, op, scope)
            made.steer(0)  # what cannot be done shows before the model is loaded
            rows.append(made)
    return tuple(rows)


def _check_savable(reference: str) -> None:
    from steer.base.errors import UsageError
    from steer.base.files import check_writable
    from steer.sharing.address import is_url
    from steer.vectors import store

    if is_url(reference):
        raise UsageError(
            f"--save writes into a file on this machine, and {reference} is elsewhere",
            hint=f"fetch it with `steer pull {reference}`, and sweep the copy; or leave --save out",
        )
    check_writable(store.find(reference), force=True)


def strongest(rows: tuple[Row, ...]) -> list[Steer]:
    """Of each row the steer that does most: how much is asked changes nothing in how an engine is
    made ready."""

    def amount(steer: Steer) -> float:
        return abs(steer.coefficient.value)

    return [max((row.steer(i) for i in range(len(row.coefficients))), key=amount) for row in rows]


def _spec(text: str) -> SteerSpec:
    from steer.base.errors import UsageError
    from steer.steering import spec
    from steer.steering.scope import CONSTANT

    parsed = spec.parse(text)
    if parsed.coefficient is not None or parsed.layers is not None:
        raise UsageError(
            f"{text!r}: a sweep finds the numbers", hint="use --coefficients and --layers"
        )
    if parsed.schedule != CONSTANT:
        raise UsageError(
            f"{text!r}: a sweep steers all tokens of its scope alike",
            hint="measure schedules with `steer eval`",
        )
    return parsed


def _coefficients(
    text: str | None, vector: SteeringVector, op: Operation, rule: str
) -> tuple[Coefficient, ...]:
    from steer.base.errors import UsageError
    from steer.steering.operation import Coefficient, parse_coefficient

    if text is None:
        from steer.measures.grids import default_coefficients

        chosen = default_coefficients(vector, op)
    else:
        chosen = tuple(parse_coefficient(part.strip(), part) for part in text.split(","))
    if rule == "refusal_direction" and all(one.value > 0 for one in chosen):
        chosen += tuple(Coefficient(-one.value, one.unit) for one in chosen)
    if len(set(chosen)) < len(chosen):
        raise UsageError(f"a coefficient twice in {text!r}")
    if any(one.unit == "residual" for one in chosen) and vector.metadata.rank:
        raise UsageError(
            f"vector {vector.name!r} is a low-rank edit: what it adds has no one length",
            hint="write multiples of it, such as 0.5,1,1.5",
        )
    return chosen


def _layers(
    text: str | None, vector: SteeringVector, *, together: bool
) -> tuple[tuple[int, ...], ...]:
    from steer.vectors.sites import parse_layers

    metadata = vector.metadata
    layers = metadata.layers if text is None else parse_layers(text)
    for layer in layers:
        metadata.at(layer)
    # What was learned for several layers at once is meant to act at all of them.
    if together or (metadata.method.name == "distill" and text is None):
        return (layers,)
    return tuple((layer,) for layer in layers)
