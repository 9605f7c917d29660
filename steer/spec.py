"""The syntax of `-v`: `joyful`, `joyful:1.5@14`, `joyful:15%@10-20`, `mood:2@8/response`.

    REFERENCE[:COEFFICIENT][@LAYERS][/SCOPE]

REFERENCE    a name or a path
COEFFICIENT  times the stored vector (1 adds it once, -1 turns it round), or `15%`: a vector whose
             length is 15 % of the mean activation's length at that layer
LAYERS       3, 2,5 or 4-7
SCOPE        `all`, `prompt`, `response`, or a range of positions, from 0: `0-4`, `8-`

What is left out is taken from the file's recommendation; the scope is `all`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from steer.errors import UsageError
from steer.provenance import Unit
from steer.sites import format_layers, parse_layers

_SPEC = re.compile(
    r"(?P<reference>.+?)"
    r"(?P<has_coefficient>:(?P<coefficient>[^:@/\\]*))?"
    r"(?P<has_layers>@(?P<layers>[^:@/\\]*))?"
    r"(?P<has_scope>(?<=[\d%])/(?P<scope>[^:@/\\]*))?"
)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True, slots=True)
class Coefficient:
    """A multiple of the stored vector, or (`residual`) a share of the mean activation's length."""

    value: float
    unit: Unit = "vector"

    def __str__(self) -> str:
        return f"{self.value * 100:g}%" if self.unit == "residual" else f"{self.value:g}"


@dataclass(frozen=True, slots=True)
class Scope:
    """Which positions are steered.

    `response` starts at the last prompt token, whose output predicts the first new one; `prompt`
    is what comes before it. `range` is `start` (counted from the first token of the prompt,
    padding left out) up to and with `stop`, or without end.
    """

    kind: Literal["all", "prompt", "response", "range"] = "all"
    start: int = 0
    stop: int | None = None

    def __str__(self) -> str:
        if self.kind != "range":
            return self.kind
        return f"{self.start}-{'' if self.stop is None else self.stop}"


EVERYWHERE = Scope()


@dataclass(frozen=True, slots=True)
class SteerSpec:
    """One `-v` as typed; None where the file decides."""

    reference: str
    coefficient: Coefficient | None = None
    layers: tuple[int, ...] | None = None
    scope: Scope = EVERYWHERE

    def __str__(self) -> str:
        parts = [self.reference]
        if self.coefficient is not None:
            parts.append(f":{self.coefficient}")
        if self.layers is not None:
            parts.append(f"@{format_layers(self.layers)}")
        if self.scope != EVERYWHERE:
            # A bare `/scope` would read as part of a path.
            parts.append(f"/{self.scope}" if len(parts) > 1 else f":1/{self.scope}")
        return "".join(parts)


def parse(text: str) -> SteerSpec:
    """A spec from what was typed.

    Raises:
        UsageError: naming the part that cannot be read.
    """
    match = _SPEC.fullmatch(text.strip())
    if match is None:
        raise UsageError("an empty vector spec", hint="write -v NAME or -v NAME:2@14")
    reference = match["reference"]
    modified = match["has_coefficient"] is not None or match["has_layers"] is not None
    scope = EVERYWHERE
    if match["has_scope"] is not None:
        if modified:
            scope = parse_scope(match["scope"])
        else:  # `folder2/prompt` is a path
            reference += match["has_scope"]
    if reference[0] in ":@":
        raise UsageError(f"{text!r} names no vector", hint="write -v NAME or -v NAME:2@14")
    coefficient = layers = None
    if match["has_coefficient"] is not None:
        coefficient = parse_coefficient(match["coefficient"], text)
    if match["has_layers"] is not None:
        layers = parse_layers(match["layers"])
    return SteerSpec(reference, coefficient, layers, scope)


def parse_coefficient(text: str, spec: str) -> Coefficient:
    """A coefficient, `1.5` or `15%`; `spec` is what the message quotes.

    Raises:
        UsageError: it is not a finite number.
    """
    number = text.removesuffix("%")
    if not _NUMBER.fullmatch(number) or not math.isfinite(float(number)):
        fact = f"{text!r} is not a number" if text else "nothing follows the colon"
        raise UsageError(f"{spec!r}: {fact}", hint="write NAME:1.5 or NAME:15%")
    if number != text:
        return Coefficient(float(number) / 100, "residual")
    return Coefficient(float(number))


def parse_scope(text: str) -> Scope:
    """A scope: `all`, `prompt`, `response`, `3-7` or `3-`.

    Raises:
        UsageError: it is none of these, or the range runs backwards.
    """
    if text in ("all", "prompt", "response"):
        return Scope(text)  # type: ignore[arg-type]  # mypy does not narrow by `in`
    start, dash, stop = text.partition("-")
    if not dash or not start.isdecimal() or (stop and not stop.isdecimal()):
        raise UsageError(f"{text!r} is not a scope", hint="use all, prompt, response, 3-7 or 3-")
    if stop and int(stop) < int(start):
        raise UsageError(f"positions {text!r} run backwards", hint=f"write {stop}-{start}")
    return Scope("range", int(start), int(stop) if stop else None)
