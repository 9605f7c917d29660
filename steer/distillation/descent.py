"""The descent of an edit to the condition's behaviour; its stability is not the user's concern.

Gradients are clipped; parameters have the scale of their layer (`Edits`); what edits at many layers
change adds up, so each is given its part of the learning rate. The rate warms up, stays until the
validation texts gain no more by it, and falls to nothing over half as many steps as were taken
(warm-up, stable, decay: Hu et al. 2024, arXiv 2404.06395): so an easy condition takes few steps,
and a hard one all. What is judged and kept is the mean of the last states, which does not jump as
they do, and of those the best on the validation texts.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch

from steer.base.progress import Progress
from steer.distillation.lessons import Lesson
from steer.distillation.lowrank import Edits
from steer.distillation.settings import Schedule
from steer.models.model import Model

#: Layers that are tried where none is named, evenly spread.
CANDIDATES = 8

#: A gradient is clipped to so many times the median length of the last `REMEMBERED`: some texts
#: have a word that the condition all but dictates, and a gradient ten times as long as others.
CLIP = 1.5
REMEMBERED = 50

#: Batches whose lessons are sorted by length together.
SORTED_TOGETHER = 8
#: How often a run is judged, and after so many steps at least; and which gain of R from one time to
#: the next is worth going on for.
CHECKS = 10
CHECKED_STEPS = 25
GAIN = 0.005
#: States that are averaged, as an exponential mean.
AVERAGED = 20


class _Long(Protocol):
    @property
    def length(self) -> int: ...


Item = TypeVar("Item", bound=_Long)


class Objective(Protocol[Item]):
    """What edits are fitted to: `lessons`, a loss on some of them, and a judgement on others.

    read: texts whose activations say how long activations are.
    """

    @property
    def model(self) -> Model: ...
    @property
    def lessons(self) -> Sequence[Item]: ...
    @property
    def read(self) -> Sequence[Lesson]: ...

    def backward(self, edits: Edits, lessons: Sequence[Item]) -> None:
        """Add the gradient of the loss, which is about 1 for no edit."""

    def recovered(self, edits: Edits) -> float:
        """1 is all that could be had, 0 what no edit has."""


def candidates(layers: Sequence[int]) -> tuple[int, ...]:
    """The layers to try of those that there are."""
    spread = np.linspace(0, len(layers) - 1, min(CANDIDATES, len(layers)))
    return tuple(layers[round(index)] for index in spread)


def descend(
    task: Objective[Item],
    edits: Edits,
    schedule: Schedule,
    on_step: Callable[[float | None], None] = lambda recovered: None,
) -> tuple[float, int]:
    """Minimise the loss, and leave `edits` at their best state.

    `on_step` gets R on the validation texts as it was last known. Returns R of the best state and
    its step; step 0 is the beginning, a regression or no edit at all, which has an R of 0.
    """
    # The second moment over 100 steps, not 1000: a run has a few hundred.
    optimizer = torch.optim.Adam(edits.parameters, betas=(0.9, 0.99))
    lengths: deque[float] = deque(maxlen=REMEMBERED)
    batches = _Batches(task.lessons, schedule)
    average = _Average(edits)
    every = max(CHECKED_STEPS, -(-schedule.steps // CHECKS))
    best, best_step, state = 0.0, 0, edits.copy()
    now: float | None = None
    if edits.begun:
        best = now = task.recovered(edits)
    step, end = 0, schedule.steps
    while step < end:
        optimizer.zero_grad()
        task.backward(edits, batches.draw())
        _clip(edits, lengths)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step, end) / len(edits.sites)
        optimizer.step()
        step += 1
        average.add(edits)
        if step % every == 0 or step == end:
            with average.held(edits):
                now = task.recovered(edits)
                if now < best + GAIN:
                    end = min(end, schedule.falling(step))
                if now > best:
                    best, best_step, state = now, step, edits.copy()
        on_step(now)
    edits.restore(state)
    return best, best_step


def descended(
    task: Objective[Item], edits: Edits, schedule: Schedule, what: str, progress: Progress
) -> tuple[float, int]:
    """Descend, as one phase; R of the best state, and its step."""
    with progress(what, schedule.steps) as advance:

        def on_step(recovered: float | None) -> None:
            advance(1, None if recovered is None else f"recovery {recovered:.2f}")

        return descend(task, edits, schedule, on_step)


class _Average:
    """The mean of an edit's last states."""

    def __init__(self, edits: Edits) -> None:
        self._state, self._n = edits.copy(), 0

    def add(self, edits: Edits) -> None:
        """Take the edit's state of now into the mean."""
        self._n += 1
        for site, parts in edits.copy().items():
            for mean, part in zip(self._state[site], parts, strict=True):
                mean.lerp_(part, 1 / min(self._n, AVERAGED))

    @contextmanager
    def held(self, edits: Edits) -> Iterator[None]:
        """The edit is the mean, for the block."""
        now = edits.copy()
        edits.restore(self._state)
        yield
        edits.restore(now)


def _clip(edits: Edits, lengths: deque[float]) -> None:
    """Clip the gradient by the lengths of those before it, and add its own to them."""
    most = CLIP * statistics.median(lengths) if lengths else 1.0
    lengths.append(float(torch.nn.utils.clip_grad_norm_(edits.parameters, most)))


class _Batches(Generic[Item]):
    """Lessons in a random order, each as often as the others; of a batch about equally long."""

    def __init__(self, lessons: Sequence[Item], schedule: Schedule) -> None:
        self._lessons, self._size = lessons, schedule.batch_size
        self._rng = np.random.default_rng([schedule.seed, 1])
        self._queue: list[int] = []
        self._ready: list[list[int]] = []

    def draw(self) -> list[Item]:
        if not self._ready:
            self._fill()
        return [self._lessons[index] for index in self._ready.pop()]

    def _fill(self) -> None:
        """Sort some batches' lessons by length, so that little is padding."""
        together = SORTED_TOGETHER * self._size
        while len(self._queue) < together:
            self._queue += self._rng.permutation(len(self._lessons)).tolist()
        drawn, self._queue = self._queue[:together], self._queue[together:]
        drawn.sort(key=lambda index: self._lessons[index].length)
        batches = [drawn[start : start + self._size] for start in range(0, together, self._size)]
        self._ready = [batches[index] for index in self._rng.permutation(len(batches))]
