"""Where and when a steer acts: positions of the text, and a course over the generated tokens.

    SCOPE     [not-]all | prompt | response | thinking | answer | 3-7 | 8- | response=0 |
              response=0-4, and with it skip-special
    SCHEDULE  ramp=N | decay=N | first=N | after=N | on=0-3,8-

Positions count from the first token of the prompt, padding left out. Steps count generated tokens
from 0: step k is the position whose output writes new token k, so step 0 is the last token of the
prompt. All positions before it have what step 0 has in a schedule.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from steer.base.errors import UsageError

#: First and last of a range, the last counted in, or None without end.
Span = tuple[int, int | None]

_SCOPE_HINT = (
    "use all, prompt, response, thinking, answer, 3-7, 3- or response=0-4, and not- before it"
)
_SCHEDULE_HINT = "use ramp=N, decay=N, first=N, after=N or on=0-3,8-"
_COURSES = ("ramp", "decay", "first", "after")


@dataclass(frozen=True, slots=True)
class Scope:
    """Which positions are steered.

    `response` starts at the last prompt token, whose output predicts the first new one; `prompt`
    is what comes before it. `range` is `start` (counted from the first token of the prompt,
    padding left out) up to and with `stop`, or without end; `steps` is the same counted from the
    start of the response. `thinking` are the positions of a response that predict a token of a
    thought, from the tag that begins it on, and `answer` those after the thought; where a response
    begins without one, all after its first token. `inverted`: all other positions.
    `skip_special`: special tokens (the first of a text, the marks of a chat template) are left
    alone, inverted or not.
    """

    kind: Literal["all", "prompt", "response", "thinking", "answer", "range", "steps"] = "all"
    start: int = 0
    stop: int | None = None
    inverted: bool = False
    skip_special: bool = False

    @property
    def by_thoughts(self) -> bool:
        """Whether it depends on what is written, and so on each text."""
        return self.kind in ("thinking", "answer")

    @property
    def complement(self) -> Scope:
        """All positions that this one leaves out, but for special tokens that both leave alone."""
        return replace(self, inverted=not self.inverted)

    def __str__(self) -> str:
        if self.kind == "range":
            named = f"{self.start}-{'' if self.stop is None else self.stop}"
        elif self.kind == "steps":
            named = f"response={_steps(self.start, self.stop)}"
        else:
            named = self.kind
        named = f"not-{named}" if self.inverted else named
        return f"{named}/skip-special" if self.skip_special else named


EVERYWHERE = Scope()


@dataclass(frozen=True, slots=True)
class Schedule:
    """What the coefficient is multiplied by at each step.

    ramp: min(1, k / n) at step k, so nothing at first and all from step n on. decay: 2^(-k / n),
    half after n steps. first: 1 before step n, then 0. after: 0 before step n, then 1. on: 1 in
    the spans of steps, else 0.
    """

    kind: Literal["constant", "ramp", "decay", "first", "after", "on"] = "constant"
    n: int = 1
    spans: tuple[Span, ...] = ()

    def factor(self, step: int) -> float:
        """The factor at a step; positions before the first step have the first one's."""
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
            return "on=" + ",".join(_steps(*span) for span in self.spans)
        return self.kind if self.kind == "constant" else f"{self.kind}={self.n}"


CONSTANT = Schedule()


def parse_when(parts: list[str]) -> tuple[Scope | None, bool, Schedule]:
    """Scope, skip-special and schedule from the parts between slashes, each at most once, in any
    order. The scope is None where none is named: the vector's file then decides.

    Raises:
        UsageError: a part is neither, or there are two of a kind.
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
    """A scope: `all`, `prompt`, `response`, `thinking`, `answer`, `3-7`, `3-`, `response=0-4`;
    `not-` before it.

    Raises:
        UsageError: it is none of these, the range runs backwards, or it is nowhere.
    """
    named = text.removeprefix("not-")
    inverted = named != text
    if named in ("prompt", "response", "thinking", "answer"):
        return Scope(named, inverted=inverted)  # type: ignore[arg-type]  # no narrowing by `in`
    if named == "all":
        if inverted:
            raise UsageError("not-all is nowhere: nothing would be steered", hint=_SCOPE_HINT)
        return EVERYWHERE
    steps = named.removeprefix("response=")
    span = _parse_span(steps, single=steps != named)
    if span is None:
        raise UsageError(f"{text!r} is not a scope", hint=_SCOPE_HINT)
    kind: Literal["steps", "range"] = "steps" if steps != named else "range"
    if inverted and span == (0, None) and kind == "range":
        raise UsageError(f"{text!r} is nowhere: nothing would be steered", hint=_SCOPE_HINT)
    return Scope(kind, *span, inverted=inverted)


def parse_schedule(text: str) -> Schedule:
    """A schedule: `constant`, `ramp=N`, `decay=N`, `first=N`, `after=N`, `on=0-3,8-`.

    Raises:
        UsageError: it is none of these, or N is not a whole number above 0.
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
    """`3-7` or `3-`, and `3` where `single`; None where it is something else.

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
    """Whether it is a whole number of a size that positions have."""
    return text.isascii() and text.isdecimal() and len(text) < 10


def _steps(start: int, stop: int | None) -> str:
    return str(start) if stop == start else f"{start}-{'' if stop is None else stop}"
