"""The type of ops: their syntax, their effect on activations, and the engines that support them."""

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

#: The mean projection of a vector's negative side, the midpoint, or that of its positive side.
Side = Literal["neg", "mid", "pos"]

_NAME = re.compile(r"[a-z]{1,20}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
#: Words of the grammar that can take the place of an op.
_RESERVED = ("norm", "recommended", "writes")


@dataclass(frozen=True, slots=True)
class Value:
    """The value of an op, in `NAME=VALUE`.

    meaning: for messages, such as `an angle in degrees`. example: a value. sides: whether it is a
    projection in activation units, for which `neg`, `mid` and `pos` are allowed.
    """

    meaning: str
    example: str
    sides: bool = False

    def parse(self, text: str, name: str, spec: str) -> float | Side:
        """Parse a value. spec: the text that messages quote.

        Raises:
            UsageError: the text is not a value.
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


#: A projection; `neg`, `pos` and `mid` are the mean of the negative side at the layer, that of the
#: positive side, and the midpoint, all from the vector's file.
LEVEL = Value("a number, neg, mid or pos", "0", sides=True)
DEGREES = Value("an angle in degrees", "30")


@dataclass(frozen=True, slots=True, kw_only=True)
class Op(Extension):
    """An operation of a steer on activations.

    name: lower-case letters, as in `-v VECTOR:NAME`. formula: in terms of the activation h, the
        unit vector u, the projection p = h . u and the value X.
    value: the kind of value after `NAME=`, if any. example: how to type it.
    apply: takes activations h, float32 [..., d_model]; u, float32 [d_model]; the value, or 0; and
        a weight, the fraction of the edit, a number or float32 [..., 1] for each position. It
        returns the edited activations, and with weight 0 h bit for bit. None for `add`, whose
        vectors are summed beforehand.
    signed: whether a negative coefficient does the opposite of a positive one.
    bounded: whether it leaves activations within a bound unchanged, so that an idle steer is not
        an error.
    linear: k if the op is h + k p u. Such an op can be applied to every write to the residual
        stream (`NAME=writes`), and so be baked into weights.
    moves: (least, most) if the op moves p by X - p, clipped to these bounds, and does nothing
        else. Engines with kernels of their own, such as vLLM, can do such an op.
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
        """Whether it is `add`, whose vectors are summed before other ops."""
        return self.apply is None

    @property
    def typed(self) -> str:
        """The way to type it, for help: `clamp=X`."""
        return self.name if self.value is None else f"{self.name}=X"

    def edit(self, h: Tensor, u: Tensor, value: float, weight: Weight) -> Tensor:
        """`apply` to activations of any float type; float32 of the same shape.

        Raises:
            HookError: an op of another package fails, or returns another shape.
        """
        from steer.base.errors import HookError
        from steer.base.extensions import foreign_code

        assert self.apply is not None
        if self.package is None:
            return self.apply(h.float(), u, value, weight)
        hint = "leave the op out, or fix that package"
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
