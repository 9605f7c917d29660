"""Whether a scope and a schedule cover any position of a text, from its lengths alone.

Positions count from the first token of the prompt. To generate n tokens, a model computes the
prompt's positions and those of all new tokens but the last. Position p predicts new token
p - (prompt length - 1), which is its step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from steer.steering.scope import Schedule, Scope

#: Positions from one up to, but not including, another.
Run = tuple[int, int]
_END = 1 << 62
#: 2^(-k / n) is 0 in float64 from this many times n on.
_DECAYED = 1075


def meets(
    scope: Scope,
    schedule: Schedule,
    prompt_length: int,
    n_new: int,
    special: Sequence[bool] = (),
    *,
    only_writing: bool = False,
) -> bool:
    """Whether any position of a text has a weight above 0.

    n_new: the number of new tokens, at least 1. special: for each prompt token, whether it is
    special; new tokens may or may not be. only_writing: positions before the last prompt token do
    not count, as above the last attention, where nothing depends on them.
    """
    first = prompt_length - 1
    total = prompt_length + n_new - 1
    for start, stop in _both(_inside(scope, first), _scheduled(schedule, first)):
        start, stop = max(start, first if only_writing else 0), min(stop, total)
        if start >= stop:
            continue
        if not scope.skip_special or stop > prompt_length:
            return True
        if not all(special[start:stop]):
            return True
    return False


def _inside(scope: Scope, first: int) -> list[Run]:
    """The positions of a scope; for one by thoughts, those where it may be. first: the position of
    step 0."""
    if scope.kind == "all" or (scope.by_thoughts and scope.inverted):
        runs = [(0, _END)]
    elif scope.kind == "prompt":
        runs = [(0, first)]
    elif scope.kind == "response" or (scope.by_thoughts and not scope.inverted):
        runs = [(first, _END)]
    else:
        zero = first if scope.kind == "steps" else 0
        runs = [(zero + scope.start, _END if scope.stop is None else zero + scope.stop + 1)]
    if not scope.inverted or scope.by_thoughts:
        return runs
    [(start, stop)] = runs
    return [(0, start), (stop, _END)]


def _scheduled(schedule: Schedule, first: int) -> list[Run]:
    """The positions at which a schedule's factor is not 0; those before step 0 have its factor."""
    if schedule.kind == "ramp":
        spans = [(1, _END)]
    elif schedule.kind == "decay":
        spans = [(0, _DECAYED * schedule.n)]
    elif schedule.kind == "first":
        spans = [(0, schedule.n)]
    elif schedule.kind == "after":
        spans = [(schedule.n, _END)]
    elif schedule.kind == "on":
        spans = [(a, _END if b is None else b + 1) for a, b in schedule.spans]
    else:
        spans = [(0, _END)]
    return [(0 if a == 0 else first + a, first + b) for a, b in spans]


def _both(some: Sequence[Run], others: Sequence[Run]) -> Iterator[Run]:
    """The positions that are in one of each."""
    for start, stop in some:
        for other_start, other_stop in others:
            yield max(start, other_start), min(stop, other_stop)
