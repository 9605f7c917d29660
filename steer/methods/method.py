"""The types of methods: name, options, requirements and computation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from steer.base.errors import InputError, UsageError
from steer.base.extensions import Extension, foreign_code
from steer.base.text import listed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

Value = bool | int | float | str
Options = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Option:
    """A setting of one method, of the type of its default.

    help: one line. choices: the values that it may have, if they are few. least, most: bounds of a
    number, inclusive.
    """

    name: str
    default: Value
    help: str
    choices: tuple[Value, ...] = ()
    least: float = -math.inf
    most: float = math.inf

    def check(self, value: object, subject: str) -> Value:
        """A value that Python was given, of this option's type; an int may stand for a float.

        Raises:
            UsageError: it is of another type, out of bounds, or none of the choices.
        """
        if isinstance(self.default, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(self.default):
            raise UsageError(
                f"{subject}: {self.name}={value!r} is not {self._type}", hint=self._hint
            )
        assert isinstance(value, bool | int | float | str)
        bounded = isinstance(value, int | float) and not isinstance(value, bool)
        if (self.choices and value not in self.choices) or (
            bounded and not self.least <= float(value) <= self.most
        ):
            raise UsageError(f"{subject}: {self.name}={value} is out of range", hint=self._hint)
        return value

    def parse(self, text: str, subject: str) -> Value:
        """A value from the command line.

        Raises:
            UsageError: as `check`.
        """
        value: object = text
        try:
            if isinstance(self.default, bool):
                value = {"true": True, "false": False}[text.lower()]
            elif isinstance(self.default, int | float):
                value = type(self.default)(text)
        except (KeyError, ValueError):
            value = text  # which `check` refuses
        return self.check(value, subject)

    @property
    def _type(self) -> str:
        names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
        return names[type(self.default)]

    @property
    def _hint(self) -> str:
        if self.choices:
            return f"{self.name} is one of {listed(map(str, self.choices))}"
        bounds = []
        if self.least > -math.inf:
            bounds.append(f"at least {self.least:g}")
        if self.most < math.inf:
            bounds.append(f"at most {self.most:g}")
        return f"{self.name} is {', '.join([self._type, *bounds])}; default: {self.default}"

    def __str__(self) -> str:
        return f"{self.name}={self.default}: {self.help}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Method(Extension):
    """The base class of all methods.

    options: what the user may set. command: the command that takes methods of this kind.
    """

    options: tuple[Option, ...] = ()
    command: ClassVar[str]

    def settings(self, chosen: Mapping[str, object]) -> dict[str, Value]:
        """The value of every option: the chosen one, checked, or the default.

        Raises:
            UsageError: an option that the method does not have, or a wrong value.
        """
        known = {option.name: option for option in self.options}
        for name in chosen:
            if name not in known:
                raise UsageError(
                    f"the method {self.name} has no option {name!r}",
                    hint=f"its options: {listed(known)}" if known else "it has no options",
                )
        return {
            name: option.check(chosen[name], self.name) if name in chosen else option.default
            for name, option in known.items()
        }

    def parse_options(self, text: str) -> dict[str, Value]:
        """Options as `NAME=VALUE,NAME=VALUE`; only those that the text names.

        Raises:
            UsageError: an option that the method does not have, one twice, or a wrong value.
        """
        known = {option.name: option for option in self.options}
        values: dict[str, Value] = {}
        for part in text.split(",") if text else ():
            name, equals, value = (word.strip() for word in part.partition("="))
            if not equals:
                raise UsageError(
                    f"{self.name}: {part!r} sets no option",
                    hint=f"write {self.name}:{'NAME' if not known else next(iter(known))}=VALUE",
                )
            if name in values:
                raise UsageError(f"{self.name}: {name} is set twice")
            if name not in known:
                self.settings({name: value})  # raises
            values[name] = known[name].parse(value, self.name)
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class FitMethod(Method):
    """A method that fits one direction to the recorded activations of both sides.

    compute: positive and negative activations, float64 [n, d_model] and [m, d_model], and the
        options by name, to a direction [d_model] that points from the negative to the positive
        side. Row i of both is a pair if the recording has pairs.
    needs_pairs: whether it means nothing without pairs. least: fewest texts of each side.
    keeps_length: the direction's own length is kept; otherwise it is brought to the length that the
        mean difference has along it, so that coefficient 1 means the same for every method.
    means_only: it depends on the mean of each side alone. It is then given each as one row, and no
        side has to fit into memory.
    positions: the tokens that `steer suite` has it read, by default one way.
    """

    command: ClassVar[str] = "steer extract"
    compute: Callable[..., Array]
    needs_pairs: bool = False
    least: int = 1
    keeps_length: bool = False
    means_only: bool = False
    positions: tuple[str, ...] = ("mean",)

    def direction(self, positive: Array, negative: Array, options: Options) -> Array:
        """The direction of both sides' activations, [d_model].

        Raises:
            InputError: too few texts, or a method of another package that fails or gives something
                other than d_model finite numbers.
        """
        import numpy as np

        if min(len(positive), len(negative)) < self.least:
            raise InputError(
                f"{self.name} needs {self.least} texts a side",
                hint="a single pair has mean_diff",
            )
        with foreign_code(self, "method", "to fit", InputError, "try another --method"):
            direction = np.asarray(self.compute(positive, negative, **options), np.float64)
        if direction.shape != positive.shape[1:] or not np.isfinite(direction).all():
            raise InputError(
                f"the method {self.name} gave {_described(direction)}, not {positive.shape[1]}"
                " finite numbers",
                hint="try another --method",
            )
        if self.keeps_length:
            return direction
        length = float(np.linalg.norm(direction))
        axis = direction / length if length else direction
        return np.asarray(float((positive.mean(0) - negative.mean(0)) @ axis) * axis)


@dataclass(frozen=True, slots=True)
class FittedEdit:
    """The result of a distillation method. edits: `steer.distillation.lowrank.Edits`.

    ridge: the regularisation of the regression, as a share of the mean diagonal. best_step: the
    step of the descent whose state was kept.
    """

    edits: Any
    ridge: float = 0.0
    best_step: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillMethod(Method):
    """A method that finds an edit with the effect of a prompt condition.

    compute: from a `steer.distillation.task.Task`, `DistillSettings`, a `Progress` and the options
        by name to a `FittedEdit`. It imports torch when it is called, so that the help does not
        wait for it.
    pairs: the same for the pairs of a contrast set (`steer.distillation.pairs.Preference`); None if
        the method cannot use them.
    response_only: whether its edit acts on the response unless a scope is named.
    descends: whether it takes the steps of the settings. usual: whether it is the default, for a
        condition in a chat or for everything else.
    in_suite: whether `steer suite` tries it by default.
    """

    command: ClassVar[str] = "steer distill"
    compute: Callable[..., FittedEdit]
    pairs: Callable[..., FittedEdit] | None = None
    response_only: bool = False
    descends: bool = False
    usual: Literal["chat", "text"] | None = None
    in_suite: bool = False

    def run(
        self, compute: Callable[..., FittedEdit], task: Any, settings: Any, progress: Any
    ) -> FittedEdit:
        """`compute` with this method's options, as `settings.options` sets them.

        Raises:
            UsageError: a wrong option.
            InputError: a method of another package fails, or gives something else.
        """
        options = self.settings(settings.options)
        hint = "try another --method"
        with foreign_code(self, "method", "to distil", InputError, hint):
            fitted = compute(task, settings, progress, **options)
        if not isinstance(fitted, FittedEdit):
            raise InputError(
                f"the method {self.name} gave a {type(fitted).__name__}, not a FittedEdit",
                hint=hint,
            )
        return fitted

    def of_pairs(self) -> Callable[..., FittedEdit]:
        """The computation for pairs.

        Raises:
            UsageError: the method has none.
        """
        if self.pairs is None:
            raise UsageError(
                f"the method {self.name} learns from a condition, not from pairs",
                hint="give a --condition, or leave --method out",
            )
        return self.pairs


def _described(array: Any) -> str:
    return f"an array of shape {list(array.shape)}" if array.ndim != 1 else f"{len(array)} numbers"
