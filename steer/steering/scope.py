"""The scope of a steer (which positions it edits) and its schedule (how its strength changes).

    SCOPE     [not-]all | prompt | response | thinking | answer | 3-7 | 8- | response=0 |
              response=0-4, optionally followed by /skip-special
    SCHEDULE  ramp=N | decay=N | first=N | after=N | on=0-3,8-

Positions count from the first token of the prompt, without padding. Steps count generated tokens
from 0: step k is the position whose output predicts new token k, so step 0 is the last token of
the prompt. Earlier positions have the same factor as step 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from steer.base.errors import UsageError

#: The first and last position of a range, inclusive; the last is None where the range has no end.
Span = tuple[int, int | None]

_SCOPE_HINT = (
    "use all, prompt, response, thinking, answer, 3-7, 3- or response=0-4, and not- before it"
)
_SCHEDULE_HINT = "use ramp=N, decay=N, first=N, after=N or on=0-3,8-"
_COURSES = ("ramp", "decay", "first", "after")


@dataclass(frozen=True, slots=True)
class Scope:
    """The positions that are steered.

    kind: `response` starts at the last prompt token, whose output predicts the first new token;
    `prompt` is everything before it. `thinking` is the positions of the response that predict a
    token of a thought, from the tag that opens it on; `answer` is those after the thought, or after
    the first token of a response that begins without one. `range` is the positions from `start` to
    `stop`, inclusive, counted from the first token of the prompt without padding; `steps` counts
    from the start of the response instead. stop: None for a range without end. inverted: all
    positions except these. skip_special: never steer special tokens (the beginning-of-text token,
    the markers of a chat template), whether inverted or not.
    """

    kind: Literal["all", "prompt", "response", "thinking", "answer", "range", "steps"] = "all"
    start: int = 0
    stop: int | None = None
    inverted: bool = False
    skip_special: bool = False

    @property
    def by_thoughts(self) -> bool:
        """Whether it depends on the tokens of each text."""
        return self.kind in ("thinking", "answer")

    @property
    def complement(self) -> Scope:
        """The positions outside this scope; `skip_special` stays as it is."""
        return replace(self, inverted=not self.inverted)

    def __str__(self) -> str:
        if self.kind == "range":
            text = f"{self.start}-{'' if self.stop is None else self.stop}"
        elif self.kind == "steps":
            text = f"response={_format_steps(self.start, self.stop)}"
        else:
            text = self.kind
        text = f"not-{text}" if self.inverted else text
        return f"{text}/skip-special" if self.skip_special else text


EVERYWHERE = Scope()


@dataclass(frozen=True, slots=True)
class Schedule:
    """The factor by which the coefficient is multiplied at each step k.

    ramp: min(1, k / n), which grows from 0 to 1 over n steps. decay: 2^(-k / n), which halves
    every n steps. first: 1 before step n, then 0. after: 0 before step n, then 1. on: 1 at the
    steps in `spans`, otherwise 0.
    """

    kind: Literal["constant", "ramp", "decay", "first", "after", "on"] = "constant"
    n: int = 1
    spans: tuple[Span, ...] = ()

    def factor(self, step: int) -> float:
        """The factor at a step. A negative step, a position in the prompt, counts as step 0."""
        k = max(step, 0)
        if self.kind == "ramp":
            return min(1.0, k / self.n)
        if self.kind == "decay":
            return float(2.0 ** (-k / self.n))
        if self.kind == "first":
            return float(k < self.n)
        if self.kind == "after":
            return float(k >= self.n)
        if self.kind == "on":
            return float(any(a <= k and (b is None or k <= b) for a, b in self.spans))
        return 1.0

    def __str__(self) -> str:
        if self.kind == "on":
            return "on=" + ",".join(_format_steps(*span) for span in self.spans)
        return self.kind if self.kind == "constant" else f"{self.kind}={self.n}"


CONSTANT = Schedule()


def parse_when(parts: list[str]) -> tuple[Scope | None, bool, Schedule]:
    """Parse the parts between slashes, in any order: a scope, `skip-special`, a schedule.

    Returns:
        the scope, None where the vector's file decides; whether to skip special tokens; the
        schedule.

    Raises:
        UsageError: a part is none of these, or there are two scopes or two schedules.
    """
    scope: Scope | None = None
    schedule: Schedule | None = None
    skip_special = False
    for part in parts:
        if part == "skip-special":
            skip_special = True
        elif part == "constant" or part.partition("=")[0] in (*_COURSES, "on"):
            if schedule is not None:
                raise UsageError(f"two schedules, {str(schedule)!r} and {part!r}", hint="name one")
            schedule = parse_schedule(part)
        else:
            if scope is not None:
                raise UsageError(f"two scopes, {str(scope)!r} and {part!r}", hint="name one")
            scope = parse_scope(part)
    if scope is not None:
        scope = replace(scope, skip_special=skip_special)
    return scope, skip_special, schedule or CONSTANT


def parse_scope(text: str) -> Scope:
    """Parse a scope: `all`, `prompt`, `response`, `thinking`, `answer`, `3-7`, `3-`,
    `response=0-4`, or `not-` and one of these.

    Raises:
        UsageError: `text` is not a scope, its range runs backwards, or it covers no position.
    """
    kind = text.removeprefix("not-")
    inverted = kind != text
    if kind in ("prompt", "response", "thinking", "answer"):
        return Scope(kind, inverted=inverted)  # type: ignore[arg-type]  # no narrowing by `in`
    if kind == "all":
        if inverted:
            raise UsageError(
                "not-all covers no position: nothing would be steered", hint=_SCOPE_HINT
            )
        return EVERYWHERE
    numbers = kind.removeprefix("response=")
    counts_steps = numbers != kind
    span = _parse_span(numbers, single=counts_steps)
    if span is None:
        raise UsageError(f"{text!r} is not a scope", hint=_SCOPE_HINT)
    if inverted and span == (0, None) and not counts_steps:
        raise UsageError(f"{text!r} covers no position: nothing would be steered", hint=_SCOPE_HINT)
    return Scope("steps" if counts_steps else "range", *span, inverted=inverted)


def parse_schedule(text: str) -> Schedule:
    """Parse a schedule: `constant`, `ramp=N`, `decay=N`, `first=N`, `after=N`, `on=0-3,8-`.

    Raises:
        UsageError: `text` is not a schedule, or N is not an integer above 0.
    """
    if text == "constant":
        return CONSTANT
    name, _, value = text.partition("=")
    if name == "on":
        spans = [_parse_span(part, single=True) for part in value.split(",")]
        if all(span is not None for span in spans):
            return Schedule("on", spans=tuple(span for span in spans if span is not None))
        raise UsageError(f"{value!r} is not a list of steps", hint="write on=0-3,8-")
    if name not in _COURSES:
        raise UsageError(f"{text!r} is not a schedule", hint=_SCHEDULE_HINT)
    if not _is_number(value) or int(value) < 1:
        raise UsageError(f"{text!r}: {value!r} is not a number of tokens", hint=f"write {name}=20")
    return Schedule(name, int(value))  # type: ignore[arg-type]  # checked above


def _parse_span(text: str, *, single: bool = False) -> Span | None:
    """Parse `3-7` or `3-`, and `3` where `single`. None where `text` is not a range.

    Raises:
        UsageError: the range runs backwards.
    """
    start, dash, stop = text.partition("-")
    if not _is_number(start) or not (dash or single) or (stop and not _is_number(stop)):
        return None
    if not dash:
        return int(start), int(start)
    if stop and int(stop) < int(start):
        raise UsageError(f"positions {text!r} run backwards", hint=f"write {stop}-{start}")
    return int(start), int(stop) if stop else None


def _is_number(text: str) -> bool:
    """Whether `text` is a non-negative integer of at most nine digits."""
    return text.isascii() and text.isdecimal() and len(text) < 10


def _format_steps(start: int, stop: int | None) -> str:
    return str(start) if stop == start else f"{start}-{'' if stop is None else stop}"
