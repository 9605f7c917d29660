"""The syntax of `-v`, `--when`, `--watch` and `--guard`.

    -v        REFERENCE[:AMOUNT][@LAYERS][/SCOPE][/skip-special][/SCHEDULE]
    --watch   REFERENCE[@LAYER]
    --guard   REFERENCE[@LAYER]>VALUE[/last or /token]       (or <VALUE)
    --when    REFERENCE[@LAYER]>VALUE[/mean, /last or /token]

REFERENCE  a name, a path, or an address: hf://OWNER/REPO[@REVISION]/NAME, s3://...
AMOUNT     one of
           2            times the recommended coefficient; with LAYERS, times the stored vector
           -1           the opposite direction
           15%          a vector as long as 15 % of the mean activation norm at the layer
           ablate       an op (`steer.steering.operation`)
           0.5,ablate   a coefficient and an op
           recommended  the coefficient and op that the file recommends
LAYERS     3, 2,5 or 4-7, or `all` layers of the file
SCOPE, SCHEDULE  see `steer.steering.scope`
VALUE      in the file's units (`steer.steering.projection`): a number, neg (0), mid (0.5),
           pos (1), or `auto`

The file's recommendation fills in every part that is omitted. A file that recommends no scope acts
on the `response` if it was distilled for responses, otherwise on `all` positions.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

from steer.base.errors import UsageError
from steer.steering.operation import (
    RECOMMENDED,
    Coefficient,
    Operation,
    format_amount,
    parse_amount,
    plain,
)
from steer.steering.scope import CONSTANT, Schedule, Scope, parse_when
from steer.vectors.sites import format_layers, parse_layers

Pooling = Literal["mean", "last", "token"]

# The scheme, host and revision of an address may contain colons and @.
_ADDRESS = r"(?:hf://[^/@]+/[^/@]+(?:@(?:refs/(?:pr|convert)/)?[^/]+)?/|[a-z][a-z0-9+.-]*://[^/]*/)"
_REFERENCE = rf"(?P<reference>{_ADDRESS}?.+?)"
#: The parts after a reference. A colon followed by a slash belongs to a path.
_MODIFIERS = re.compile(
    r"(?P<has_amount>:(?!/)(?P<amount>[^:@/\\]*))?"
    r"(?P<has_layers>@(?P<layers>[^:@/\\]*))?(?P<when>(?:/[^:@/\\]*)*)"
)
_READ = re.compile(_REFERENCE + r"(?P<has_layer>@(?P<layer>[^@/\\]*))?", re.DOTALL)
_NUMBERS = r"(?:[-+.\d,%eE]+|all)"
#: Numbers after a mark, and numbers after a second such mark, with no slash in between.
_TWICE = {
    mark: re.compile(rf"{mark}{_NUMBERS}(?:[:@][^:@/\\]*)?{mark}{_NUMBERS}(?:[:@/]|$)")
    for mark in "@:"
}
_NAMED_VALUES = {"neg": 0.0, "mid": 0.5, "pos": 1.0}


@dataclass(frozen=True, slots=True)
class SteerSpec:
    """A `-v` option as typed. A field is None where the vector's file decides.

    skip_special: the same as in `scope`, where there is one.
    """

    reference: str
    coefficient: Coefficient | None = None
    layers: tuple[int, ...] | Literal["all"] | None = None
    scope: Scope | None = None
    op: Operation | None = None
    schedule: Schedule = CONSTANT
    skip_special: bool = False

    def __str__(self) -> str:
        amount = format_amount(self.coefficient, self.op)
        when = [str(part) for part in (self.scope, self.schedule) if part not in (None, CONSTANT)]
        if self.scope is None and self.skip_special:
            when.insert(0, "skip-special")
        if when and not amount and self.layers is None:
            amount = RECOMMENDED  # without an amount, `/scope` would be read as part of a path
        text = self.reference + (f":{amount}" if amount else "")
        if self.layers is not None:
            text += f"@{self.layers if self.layers == 'all' else format_layers(self.layers)}"
        return "/".join([text, *when])


@dataclass(frozen=True, slots=True)
class ReadSpec:
    """A `--watch` option as typed. layer: None where the vector's file decides."""

    reference: str
    layer: int | None = None

    def __str__(self) -> str:
        return self.reference + ("" if self.layer is None else f"@{self.layer}")


@dataclass(frozen=True, slots=True)
class ThresholdSpec:
    """A `--when` or `--guard` option as typed: the projection is above or below a threshold.

    value: in the file's units, or `auto`. pooling: None where the vector's file decides.
    """

    read: ReadSpec
    above: bool
    value: float | Literal["auto"]
    pooling: Pooling | None = None

    def __str__(self) -> str:
        value = self.value if isinstance(self.value, str) else plain(self.value)
        pooling = f"/{self.pooling}" if self.pooling else ""
        return f"{self.read}{'>' if self.above else '<'}{value}{pooling}"


def parse(text: str) -> SteerSpec:
    """Parse the text of a `-v` option.

    Raises:
        UsageError: a part is invalid; the message names it.
    """
    stripped = text.strip()
    if not stripped:
        raise UsageError("an empty vector spec", hint="write -v NAME or -v NAME:2@14")
    reference, match = _split(stripped)
    modified = match["has_amount"] is not None or match["has_layers"] is not None
    # `folder2/prompt` is a path, and so is a text that ends in the suffix of vector files.
    if not modified or (match["when"] and stripped.endswith(".safetensors")):
        reference, modified = stripped, False
    if reference[0] in ":@":
        raise UsageError(f"{text!r} names no vector", hint="write -v NAME or -v NAME:2@14")
    _check_once(stripped)
    if not modified:
        return SteerSpec(reference)
    coefficient, operation = None, None
    if match["has_amount"] is not None:
        coefficient, operation = parse_amount(match["amount"], text)
    layers: tuple[int, ...] | Literal["all"] | None = None
    if match["has_layers"] is not None:
        layers = "all" if match["layers"] == "all" else parse_layers(match["layers"])
    scope, skip_special, schedule = parse_when(match["when"].split("/")[1:])
    return SteerSpec(reference, coefficient, layers, scope, operation, schedule, skip_special)


def _check_once(text: str) -> None:
    """Refuse numbers after a second `:` or `@`, which would become part of the name.

    Raises:
        UsageError: a part occurs twice; the message names it.
    """
    if text.endswith(".safetensors") or re.match(_ADDRESS, text):
        return
    for mark, part in (("@", "layers"), (":", "a coefficient")):
        match = _TWICE[mark].search(text)
        if match is not None:
            raise UsageError(f"{text!r} has {part} twice", hint="write -v NAME:2@14")


def _split(text: str) -> tuple[str, re.Match[str]]:
    """Split a spec into the shortest possible reference and the modifiers after it.

    Modifiers have at most one colon and one @, so only a few positions can be their start. This
    takes linear time; one regular expression for both would take quadratic time.
    """
    last = max(text.rfind(mark) for mark in ":@\\")
    address = re.match(_ADDRESS, text)
    for least in [address.end() if address else 0, 0]:
        slash = text.find("/", max(last, least) + 1)
        for start in sorted({text.rfind(":"), text.rfind("@"), slash, len(text)}):
            match = _MODIFIERS.fullmatch(text, start) if start > least else None
            if match is not None:
                return text[:start], match
    raise AssertionError("the whole text is a reference")


def parse_read(text: str) -> ReadSpec:
    """Parse `joyful` or `joyful@3`.

    Raises:
        UsageError: `text` names no vector, or several layers.
    """
    match = _READ.fullmatch(text.strip())
    if match is None or match["reference"][0] == "@":
        raise UsageError(f"{text!r} names no vector", hint="write NAME or NAME@14")
    if match["has_layer"] is None:
        return ReadSpec(match["reference"])
    layers = parse_layers(match["layer"])
    if len(layers) != 1:
        raise UsageError(f"{text!r} names several layers", hint=f"write @{layers[0]}")
    return ReadSpec(match["reference"], layers[0])


def parse_threshold(text: str) -> ThresholdSpec:
    """Parse `refusal>0.4`, `troll@3<mid` or `refusal>auto/last`.

    Raises:
        UsageError: a part is invalid; the message names it.
    """
    read, sign, rest = text.strip().rpartition(max("><", key=text.rfind))
    if not sign or not read:
        raise UsageError(f"{text!r} is not a threshold", hint="write 'NAME>0.5' or 'NAME<0.5'")
    value, slash, pooling = rest.strip().partition("/")
    if slash and pooling not in get_args(Pooling):
        raise UsageError(
            f"{text!r}: {pooling!r} is not mean, last or token",
            hint="write /mean or /last of the prompt, or /token for each token",
        )
    return ThresholdSpec(
        parse_read(read),
        sign == ">",
        "auto" if value == "auto" else _parse_value(value, text),
        pooling if slash else None,  # type: ignore[arg-type]  # checked above
    )


def _parse_value(value: str, text: str) -> float:
    try:
        number = _NAMED_VALUES[value] if value in _NAMED_VALUES else float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        fact = f"{value!r} is not a threshold" if value else "no threshold follows"
        raise UsageError(f"{text!r}: {fact}", hint="write a number, neg, mid, pos or auto")
    return number
