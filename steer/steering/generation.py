"""Settings and results of generation. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from steer.base.errors import UsageError
from steer.steering.steers import Steer

Finish = Literal["end", "stop", "length", "guard"]

#: Upper limits, which exhaust a machine or the user's patience.
LARGEST = {"max_tokens": 1_000_000, "samples": 1_000_000, "batch_size": 4_096, "beams": 1_024}


@dataclass(frozen=True, slots=True)
class Trip:
    """A tripped guard: the index of the new token from 0, the token's text, and its value."""

    guard: str
    token: int
    text: str
    value: float

    def __str__(self) -> str:
        return (
            f"guard {self.guard} tripped: {self.value:.3g} at new token {self.token}, {self.text!r}"
        )


@dataclass(frozen=True, slots=True)
class Sampling:
    """The settings of generation. temperature 0 is greedy; top_k 0 and top_p 1 keep all tokens.

    beams: the width of a beam search (1: no search); the samples of a prompt are then its best
    beams.

    Raises:
        UsageError: a number is out of range.
    """

    max_tokens: int = 64
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    samples: int = 1
    seed: int = 0
    batch_size: int = 16
    beams: int = 1

    def __post_init__(self) -> None:
        for name, largest in LARGEST.items():
            if not 1 <= getattr(self, name) <= largest:
                raise UsageError(f"--{name.replace('_', '-')} is at least 1, at most {largest:,}")
        if not 0 <= self.temperature < math.inf:
            raise UsageError("--temperature is 0 or more", hint="0 is greedy")
        if not 0 < self.top_p <= 1:
            raise UsageError("--top-p is above 0 and at most 1")
        if self.top_k < 0 or self.seed < 0:
            raise UsageError("--top-k and --seed are 0 or more")
        if "" in self.stop:
            raise UsageError("a stop string is empty")
        if self.beams > 1 and self.temperature:
            raise UsageError("--beams does not sample", hint="add --temperature 0")
        if 1 < self.beams < self.samples:
            raise UsageError(
                f"--beams {self.beams} cannot end in {self.samples} texts",
                hint=f"pass --beams {self.samples} or more",
            )


def check_gates(sampling: Sampling, steers: Sequence[Steer]) -> None:
    """Refuse token gates and scopes by thoughts together with beams, which are discarded and change
    places.

    Raises:
        UsageError: there are beams and one of these.
    """
    for steer in steers:
        if sampling.beams > 1 and steer.scope.by_thoughts:
            raise UsageError(
                f"--beams excludes the scope {steer.scope}, which depends on what is written",
                hint="use the scope response, or leave --beams out",
            )
        if sampling.beams > 1 and steer.gate is not None and steer.gate.pooling == "token":
            raise UsageError(
                f"--beams excludes gates that read each token ({steer.gate})",
                hint="read the prompt instead, with /mean or /last, or leave --beams out",
            )


@dataclass(frozen=True, slots=True)
class Guide:
    """A condition that guides a text, and how strongly: 1 is the condition as a prompt, 0 is none.

    Raises:
        UsageError: the strength is not a finite number.
    """

    condition: str
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.strength):
            raise UsageError(f"--strength is a finite number, not {self.strength}")

    def __str__(self) -> str:
        return f"{self.condition!r} at {self.strength:g}"


def guides_of(conditions: Sequence[str], strengths: float | Sequence[float]) -> list[Guide]:
    """Each condition with its strength: one strength for all of them, or one for each.

    Raises:
        UsageError: another number of strengths than of conditions, or one that is not finite.
    """
    each = [float(strengths)] if isinstance(strengths, (int, float)) else list(strengths)
    if len(each) not in (1, len(conditions)):
        raise UsageError(
            f"{len(each)} strengths for {len(conditions)} conditions",
            hint="give one --strength for all, or one after each --condition",
        )
    each = each * len(conditions) if len(each) == 1 else each
    return [Guide(text, number) for text, number in zip(conditions, each, strict=True)]


@dataclass(frozen=True, slots=True)
class Guidance:
    """strengths: one for each guide. prompts: each prompt's text under each guide's condition.

    layer: where activations are guided; None guides the next token's distribution.
    """

    strengths: tuple[float, ...]
    prompts: tuple[tuple[str, ...], ...]
    layer: int | None = None


@dataclass(frozen=True, slots=True)
class GateReading:
    """The share of new tokens for which a gate was open, and the value that it read from the
    prompt; None for a token gate."""

    gate: str
    share: float
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """One continuation of a prompt.

    finish: its end: an end token of the model (`end`), a stop string (`stop`), a guard (`guard`),
    or the limit of tokens (`length`). tokens: the text of each new token, if vectors are watched.
    watched: the projection of each new token in the file's units, by vector and layer. gates: the
    readings of all gates. trips: the guards that tripped. idle: steers that changed nothing in this
    text although their gates were open. unreached: caps and floors whose bound was not reached.
    """

    prompt: str
    sample: int
    text: str
    n_tokens: int
    finish: Finish
    tokens: list[str] = field(default_factory=list)
    watched: dict[str, list[float]] = field(default_factory=dict)
    gates: list[GateReading] = field(default_factory=list)
    trips: list[Trip] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)
    unreached: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Row:
    """One continuation to generate. ids: the token ids of its prompt. conditioned: those of the
    prompt under each condition that guides it.
    """

    prompt: str
    sample: int
    ids: list[int]
    conditioned: tuple[list[int], ...] = ()
