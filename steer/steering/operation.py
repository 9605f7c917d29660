"""What is done to activations, as data: which op and value. `steer.hooks.ops` has the maths.

    add               h + c v                        (c: the coefficient, v: the stored vector)
    add, norm=keep    the same, brought back to the length of h
    ablate            remove the share c (1 by default) of the projection on v
    ablate=writes     the same at every write to the residual stream, with one layer's vector
    clamp=X           set the projection to X
    cap=X, floor=X    where the projection is above X (below X), set it to X
    rotate=DEGREES    turn h towards v by this angle; its length stays

Projections are on the unit vector, in activation units. X is a number of them, or `neg`, `pos` or
`mid`: where the file says that the mean of the negative side lies, of the positive side, or half
way between, at the layer in question. `clamp=0` pins the projection to zero.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, get_args

from steer.base.errors import UsageError
from steer.vectors.provenance import Unit

OpName = Literal["add", "ablate", "clamp", "cap", "floor", "rotate"]
#: A place between the two sides of a file.
Between = Literal["neg", "mid", "pos"]

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_EXAMPLES = "write 1.5, 15%, ablate, clamp=0, cap=mid, floor=neg, rotate=30 or 2,norm=keep"


@dataclass(frozen=True, slots=True)
class Coefficient:
    """A multiple of the stored vector, or (`residual`) a share of the mean activation's length.

    For ops other than add it says how much of the edit is made: 1 all, 0.5 half, 0 none.
    """

    value: float
    unit: Unit = "vector"

    def __str__(self) -> str:
        if self.unit == "residual":
            # In decimals, so that what was typed comes back.
            percent = Decimal(repr(self.value)).scaleb(2)
            digits = f"{percent:f}" if abs(percent.adjusted()) < 17 else f"{percent:e}"
            return (
                digits.rstrip("0").rstrip(".") if "." in digits and "e" not in digits else digits
            ) + "%"
        return plain(self.value)


@dataclass(frozen=True, slots=True)
class Operation:
    """An op and its value: a level for clamp, cap and floor, degrees for rotate."""

    name: OpName = "add"
    value: float | Between | None = None
    keep_norm: bool = False
    writes: bool = False

    def __str__(self) -> str:
        if self.writes:
            return f"{self.name}=writes"
        if self.value is not None:
            named = self.value if isinstance(self.value, str) else plain(self.value)
            return f"{self.name}={named}"
        return "norm=keep" if self.keep_norm else self.name


ADD = Operation()


#: In place of an amount: the coefficient and the op that the file recommends.
RECOMMENDED = "recommended"


def parse_amount(text: str, spec: str) -> tuple[Coefficient | None, Operation | None]:
    """A coefficient, an op, or both with a comma between; `spec` is what messages quote.

    None stands for what is not typed: the file decides it.

    Raises:
        UsageError: a part is neither, there are two of a kind, or a value is missing or wrong.
    """
    coefficient: Coefficient | None = None
    operation: Operation | None = None
    if text == RECOMMENDED:
        return None, None
    for part in text.split(","):
        if part.partition("=")[0] in (*get_args(OpName), "norm"):
            if operation is not None:
                raise UsageError(f"{spec!r}: two ops, {str(operation)!r} and {part!r}")
            operation = _operation(part, spec)
        elif coefficient is not None:
            raise UsageError(f"{spec!r}: {part!r} is not an op", hint=_EXAMPLES)
        else:
            coefficient = parse_coefficient(part, spec)
    if (
        coefficient is not None
        and coefficient.unit == "residual"
        and (operation or ADD).name != "add"
    ):
        raise UsageError(
            f"{spec!r}: a percentage is a length to add, and {(operation or ADD).name} adds none",
            hint="write a share such as 0.5, or leave it out",
        )
    return coefficient, operation


def parse_operation(text: str, spec: str) -> Operation:
    """An op without a coefficient; `spec` is what messages quote.

    Raises:
        UsageError: it is not an op.
    """
    coefficient, operation = parse_amount(text, spec)
    if coefficient is not None or operation is None:
        raise UsageError(f"{spec!r}: {text!r} is not an op", hint="write add, ablate or clamp=0")
    return operation


def format_amount(coefficient: Coefficient | None, operation: Operation | None) -> str:
    """What `parse_amount` reads back; empty where the file decides both."""
    return ",".join(str(part) for part in (coefficient, operation) if part is not None)


def parse_coefficient(text: str, spec: str) -> Coefficient:
    """A coefficient, `1.5` or `15%`; `spec` is what the message quotes.

    Raises:
        UsageError: it is not a finite number.
    """
    number = text.removesuffix("%")
    if not _is_finite(number):
        if not text:
            raise UsageError(f"{spec!r}: nothing follows the colon", hint=_EXAMPLES)
        close = difflib.get_close_matches(text.partition("=")[0], get_args(OpName), n=1)
        raise UsageError(
            f"{spec!r}: {text!r} is not a number"
            + ("" if text[0] in "+-.0123456789" else " or an op"),
            hint=f"did you mean {close[0]}?" if close else _EXAMPLES,
        )
    if number != text:
        return Coefficient(float(Decimal(number).scaleb(-2)), "residual")
    return Coefficient(float(number))


def plain(number: float) -> str:
    """The shortest text that reads back as this number, whole ones without a point."""
    return repr(float(number)).removesuffix(".0")


def _operation(part: str, spec: str) -> Operation:
    name, has_value, value = part.partition("=")
    if name == "norm":
        if value != "keep":
            raise UsageError(f"{spec!r}: {part!r} is not an op", hint="write norm=keep")
        return Operation(keep_norm=True)
    if name == "add" or (name == "ablate" and not has_value):
        if has_value:
            raise UsageError(f"{spec!r}: add takes no value", hint="write the coefficient alone")
        return Operation(name)  # type: ignore[arg-type]  # checked by the caller
    if name == "ablate":
        if value != "writes":
            raise UsageError(
                f"{spec!r}: {value!r} is not a value of ablate",
                hint="write ablate, ablate=writes, or 0.5,ablate for half of it",
            )
        return Operation("ablate", writes=True)
    if not value:
        example = "30" if name == "rotate" else "0"
        raise UsageError(f"{spec!r}: {name} needs a value", hint=f"write {name}={example}")
    return Operation(name, _value(name, value, spec))  # type: ignore[arg-type]


def _value(name: str, value: str, spec: str) -> float | Between:
    if name != "rotate" and value in get_args(Between):
        return value  # type: ignore[return-value]  # mypy does not narrow by `in`
    if not _is_finite(value):
        hint = "an angle in degrees" if name == "rotate" else "a number, neg, mid or pos"
        raise UsageError(f"{spec!r}: {name}={value!r} is not a value", hint=f"{name} takes {hint}")
    return float(value)


def _is_finite(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text)) and math.isfinite(float(text))
