"""What an op is: how it is typed, what it does to activations, and who else can do it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from steer.base.errors import UsageError
from steer.base.extensions import Extension

if TYPE_CHECKING:
    from torch import Tensor

    Weight = float | Tensor

#: A place between the two sides of a vector's file: the mean of the negative side, half way, or the
#: mean of the positive side.
Side = Literal["neg", "mid", "pos"]

_NAME = re.compile(r"[a-z]{1,20}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
#: Words of the grammar that stand where an op may stand.
_RESERVED = ("norm", "recommended", "writes")


@dataclass(frozen=True, slots=True)
class Value:
    """What follows the name of an op: `NAME=VALUE`.

    meaning: for messages, such as `an angle in degrees`. example: a value. sides: whether it is a
    projection in activation units, which `neg`, `mid` and `pos` may stand for.
    """

    meaning: str
    example: str
    sides: bool = False

    def parse(self, text: str, name: str, spec: str) -> float | Side:
        """The value that a text stands for; `spec` is what messages quote.

        Raises:
            UsageError: it is none.
        """
        if not text:
            raise UsageError(f"{spec!r}: {name} needs a value", hint=f"write {name}={self.example}")
        if self.sides and text in get_args(Side):
            return text  # type: ignore[return-value]  # mypy does not narrow by `in`
        if not is_finite(text):
            raise UsageError(
                f"{spec!r}: {name}={text!r} is not a value", hint=f"{name} takes {self.meaning}"
            )
        return float(text)


#: `neg`, `pos` and `mid` are where a vector's file says that the mean of the negative side lies, of
#: the positive side, and half way between, at the layer in question.
LEVEL = Value("a number, neg, mid or pos", "0", sides=True)
DEGREES = Value("an angle in degrees", "30")


@dataclass(frozen=True, slots=True, kw_only=True)
class Op(Extension):
    """An op.

    name: lower-case letters, as in `-v VECTOR:NAME`. formula: in terms of the activation h, the
        unit vector u, the projection p = h . u and the value X.
    value: what follows `NAME=`; None where nothing does. example: how it is typed.
    apply: activations h, float32 [..., d_model]; u, float32 [d_model]; the value as a number, 0
        where there is none; and a weight, a number or float32 [..., 1] for each position: which
        share of the edit is made. Returns the edited activations: where the weight is 0, h itself
        bit for bit. None for `add`, whose vectors are summed beforehand.
    signed: whether a negative coefficient does the contrary of a positive one.
    bounded: whether it leaves activations alone that are within a bound, so that a steer that
        changed nothing is no fault.
    linear: k if it makes h + k p u of h. Such an op can be done at every write to the residual
        stream (`NAME=writes`), and so baked into weights.
    moves: least and most that p moves towards X, in X - p, if it does nothing else. Engines with
        kernels of their own, such as vLLM, can do such an op.
    """

    formula: str
    value: Value | None = None
    example: str = ""
    apply: Callable[[Tensor, Tensor, float, Weight], Tensor] | None = None
    signed: bool = False
    bounded: bool = False
    linear: float | None = None
    moves: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name in _RESERVED:
            raise ValueError(f"{self.name!r} cannot be the name of an op: use lower-case letters")

    @property
    def adds(self) -> bool:
        """Whether it is the addition, whose vectors are summed before anything else is done."""
        return self.apply is None

    @property
    def typed(self) -> str:
        """How it is typed, for help: `clamp=X`."""
        return self.name if self.value is None else f"{self.name}=X"

    def edit(self, h: Tensor, u: Tensor, value: float, weight: Weight) -> Tensor:
        """`apply` to activations of any float type; float32 of the same shape.

        Raises:
            HookError: an op of another package fails, or gives something of another shape.
        """
        from steer.base.errors import HookError
        from steer.base.extensions import foreign_code

        assert self.apply is not None
        if self.package is None:
            return self.apply(h.float(), u, value, weight)
        hint = "leave the op out, or mend that package"
        with foreign_code(self, "op", "to edit activations", HookError, hint):
            edited: Any = self.apply(h.float(), u, value, weight)
        if getattr(edited, "shape", None) != h.shape:
            raise HookError(
                f"the op {self.name} of the package {self.package} gave"
                f" {getattr(edited, 'shape', type(edited).__name__)} for activations of shape"
                f" {list(h.shape)}",
                hint=hint,
            )
        return edited  # type: ignore[no-any-return]


def is_finite(text: str) -> bool:
    """Whether a text is a finite decimal number."""
    return bool(_NUMBER.fullmatch(text)) and math.isfinite(float(text))
