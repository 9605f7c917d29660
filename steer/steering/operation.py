"""The edit that a steer makes, as data: an op (`steer.ops`), the op's value, and a coefficient.

The coefficient of `add` multiplies the stored vector. The coefficient of any other op is the
fraction of the edit that is applied. `norm=keep` adds the vector and then restores each
activation's norm. `NAME=writes` applies a linear op at every write to the residual stream, with the
vector of one layer.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from decimal import Decimal

from steer.base.errors import UsageError
from steer.base.text import listed
from steer.ops.op import Op, Side, is_finite
from steer.ops.registry import ops
from steer.vectors.provenance import Unit


@dataclass(frozen=True, slots=True)
class Coefficient:
    """The strength of a steer.

    For `add`: a multiple of the stored vector (unit `vector`), or a fraction of the mean
    activation norm (unit `residual`, typed as a percentage). For every other op: the fraction of
    the edit that is applied, from 0 (none) to 1 (all).
    """

    value: float
    unit: Unit = "vector"

    def __str__(self) -> str:
        if self.unit == "residual":
            # Decimal arithmetic, so that 15.3% prints as 15.3%.
            percent = Decimal(repr(self.value)).scaleb(2)
            digits = f"{percent:f}" if abs(percent.adjusted()) < 17 else f"{percent:e}"
            return (
                digits.rstrip("0").rstrip(".") if "." in digits and "e" not in digits else digits
            ) + "%"
        return plain(self.value)


@dataclass(frozen=True, slots=True)
class Operation:
    """An op with its value, such as a projection in activation units or an angle in degrees."""

    name: str = "add"
    value: float | Side | None = None
    keep_norm: bool = False
    writes: bool = False

    @property
    def op(self) -> Op:
        """The op itself.

        Raises:
            UsageError: the op comes from a package that is not installed.
        """
        return ops().named(self.name)

    def __str__(self) -> str:
        if self.writes:
            return f"{self.name}=writes"
        if self.value is not None:
            value = self.value if isinstance(self.value, str) else plain(self.value)
            return f"{self.name}={value}"
        return "norm=keep" if self.keep_norm else self.name


ADD = Operation()


#: Typed in place of an amount, it means the coefficient and op that the file recommends.
RECOMMENDED = "recommended"


def parse_amount(text: str, spec: str) -> tuple[Coefficient | None, Operation | None]:
    """Parse a coefficient, an op, or both separated by a comma. Error messages quote `spec`.

    Returns:
        the coefficient and the op; None for a part that was not typed, which the file decides.

    Raises:
        UsageError: a part is neither a coefficient nor an op, there are two of either, or a value
            is missing or invalid.
    """
    coefficient: Coefficient | None = None
    operation: Operation | None = None
    if text == RECOMMENDED:
        return None, None
    for part in text.split(","):
        if (name := part.partition("=")[0]) == "norm" or name in ops():
            if operation is not None:
                raise UsageError(f"{spec!r}: two ops, {str(operation)!r} and {part!r}")
            operation = _operation(part, spec)
        elif coefficient is not None:
            raise UsageError(f"{spec!r}: {part!r} is not an op", hint=_hint(part))
        else:
            coefficient = parse_coefficient(part, spec)
    if (
        coefficient is not None
        and coefficient.unit == "residual"
        and not (operation or ADD).op.adds
    ):
        raise UsageError(
            f"{spec!r}: a percentage is a length to add, and {(operation or ADD).name} adds none",
            hint="write a share such as 0.5, or leave it out",
        )
    return coefficient, operation


def parse_operation(text: str, spec: str) -> Operation:
    """Parse an op that has no coefficient. Error messages quote `spec`.

    Raises:
        UsageError: `text` is not an op.
    """
    coefficient, operation = parse_amount(text, spec)
    if coefficient is not None or operation is None:
        raise UsageError(f"{spec!r}: {text!r} is not an op", hint="write add, ablate or clamp=0")
    return operation


def format_amount(coefficient: Coefficient | None, operation: Operation | None) -> str:
    """The inverse of `parse_amount`: empty where the file decides both."""
    return ",".join(str(part) for part in (coefficient, operation) if part is not None)


def parse_coefficient(text: str, spec: str) -> Coefficient:
    """Parse a coefficient such as `1.5` or `15%`. Error messages quote `spec`.

    Raises:
        UsageError: `text` is not a finite number.
    """
    number = text.removesuffix("%")
    if not is_finite(number):
        if not text:
            raise UsageError(f"{spec!r}: nothing follows the colon", hint=_examples())
        raise UsageError(
            f"{spec!r}: {text!r} is not a number"
            + ("" if text[0] in "+-.0123456789" else " or an op"),
            hint=_hint(text),
        )
    if number != text:
        return Coefficient(float(Decimal(number).scaleb(-2)), "residual")
    return Coefficient(float(number))


def plain(number: float) -> str:
    """The shortest text that parses to this number: `2`, not `2.0`."""
    return repr(float(number)).removesuffix(".0")


def _operation(part: str, spec: str) -> Operation:
    name, has_value, value = part.partition("=")
    if name == "norm":
        if value != "keep":
            raise UsageError(f"{spec!r}: {part!r} is not an op", hint="write norm=keep")
        return Operation(keep_norm=True)
    op = ops().named(name)
    if op.linear is not None and value == "writes":
        return Operation(op.name, writes=True)
    if op.value is not None:
        return Operation(op.name, op.value.parse(value, op.name, spec))
    if not has_value:
        return Operation(op.name)
    if op.adds:
        raise UsageError(f"{spec!r}: add takes no value", hint="write the coefficient alone")
    examples = [op.name, *([f"{op.name}=writes"] if op.linear is not None else [])]
    raise UsageError(
        f"{spec!r}: {value!r} is not a value of {op.name}",
        hint=f"write {', '.join(examples)}, or 0.5,{op.name} for half of it",
    )


def _examples() -> str:
    return f"write 15%, 2,norm=keep, {', '.join(op.example for op in ops() if op.example)}"


def _hint(text: str) -> str:
    """Suggest a replacement for a text that is neither a number nor an op."""
    name = text.partition("=")[0]
    for broken in ops().broken:
        if broken.name == name:
            return f"{broken}; fix or update that package"
    if close := difflib.get_close_matches(name, ops().names, n=1):
        return f"did you mean {close[0]}?"
    if name.isalpha():
        return f"the ops are {listed(ops().names)}; if a package has {name}, install it"
    return _examples()
