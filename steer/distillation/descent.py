"""The descent of an edit to the condition's behaviour; its stability is not the user's concern.

Gradients are clipped, the learning rate warms up and falls by a cosine, parameters have the scale
of their layer (`Edits`), and of all states on the way the best on validation texts is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from steer.distillation.lessons import Lesson
from steer.distillation.lowrank import Edits
from steer.distillation.settings import Schedule
from steer.distillation.task import Task

#: Layers that are tried where none is named, evenly spread, and the steps that each of them gets.
CANDIDATES = 8
SEARCH_STEPS = 25

#: Batches whose lessons are sorted by length together.
SORTED_TOGETHER = 8
#: How often a run is judged (after so many steps at least), and how often in a row without a new
#: best until it ends early.
CHECKS = 10
CHECKED_STEPS = 10
PATIENCE = 5


def candidates(layers: Sequence[int]) -> tuple[int, ...]:
    """The layers to try of those that there are."""
    spread = np.linspace(0, len(layers) - 1, min(CANDIDATES, len(layers)))
    return tuple(layers[round(index)] for index in spread)


def descend(
    task: Task,
    edits: Edits,
    schedule: Schedule,
    on_step: Callable[[float | None], None] = lambda recovered: None,
) -> tuple[float, int]:
    """Minimise the mean KL per token, and leave `edits` at their best state.

    `on_step` gets R on the validation texts as it was last known. Returns R of the best state and
    its step; step 0, R 0 is the beginning, which is no edit at all.
    """
    optimizer = torch.optim.Adam(edits.parameters, lr=schedule.learning_rate)
    batches = _Batches(task.texts.lessons, schedule)
    every = max(CHECKED_STEPS, -(-schedule.steps // CHECKS))
    best, best_step, state = 0.0, 0, edits.copy()
    now: float | None = None
    for step in range(1, schedule.steps + 1):
        optimizer.zero_grad()
        task.backward(edits, batches.draw())
        torch.nn.utils.clip_grad_norm_(edits.parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step - 1)
        optimizer.step()
        if step % every == 0 or step == schedule.steps:
            now = task.recovered(edits)
            if now > best:
                best, best_step, state = now, step, edits.copy()
        on_step(now)
        if step - best_step > PATIENCE * every:
            break
    edits.restore(state)
    return best, best_step


class _Batches:
    """Lessons in a random order, each as often as the others; of a batch about equally long."""

    def __init__(self, lessons: Sequence[Lesson], schedule: Schedule) -> None:
        self._lessons, self._size = lessons, schedule.batch_size
        self._rng = np.random.default_rng([schedule.seed, 1])
        self._queue: list[int] = []
        self._ready: list[list[int]] = []

    def draw(self) -> list[Lesson]:
        if not self._ready:
            self._fill()
        return [self._lessons[index] for index in self._ready.pop()]

    def _fill(self) -> None:
        """Sort some batches' lessons by length, so that little is padding."""
        together = SORTED_TOGETHER * self._size
        while len(self._queue) < together:
            self._queue += self._rng.permutation(len(self._lessons)).tolist()
        drawn, self._queue = self._queue[:together], self._queue[together:]
        drawn.sort(key=lambda index: len(self._lessons[index].baseline))
        batches = [drawn[start : start + self._size] for start in range(0, together, self._size)]
        self._ready = [batches[index] for index in self._rng.permutation(len(batches))]
