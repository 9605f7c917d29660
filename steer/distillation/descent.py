"""The descent of an edit to the condition's behaviour; its stability is not the user's concern.

Gradients are clipped, the learning rate warms up and falls by a cosine, parameters have the scale
of their layer (`Edits`), and of all states on the way the best on validation texts is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from steer.distillation.lessons import Lesson
from steer.distillation.lowrank import Edits, Teacher, backward, divergences
from steer.errors import InputError, UsageError
from steer.models.model import Model

#: Layers that are tried where none is named, evenly spread, and the steps that each of them gets.
CANDIDATES = 8
SEARCH_STEPS = 25
#: A condition that moves the next token by less than this many nats cannot be told from none.
LEAST_EFFECT = 1e-6

#: Batches whose lessons are sorted by length together.
SORTED_TOGETHER = 8
#: How often a run is judged (after so many steps at least), and how often in a row without a new
#: best until it ends early.
CHECKS = 10
CHECKED_STEPS = 10
PATIENCE = 5


@dataclass(frozen=True, slots=True)
class Schedule:
    """Adam with a short warm-up, then a cosine to nothing, and gradients clipped to length 1."""

    steps: int
    learning_rate: float
    batch_size: int
    seed: int

    def rate(self, step: int) -> float:
        """Learning rate of a step, from 0."""
        warm = max(1, min(20, self.steps // 10))
        cosine = 0.5 * (1 + np.cos(np.pi * step / self.steps))
        return float(self.learning_rate * min(1.0, (step + 1) / warm) * max(cosine, 0.01))


@dataclass(frozen=True, slots=True)
class DistillSettings:
    """What to distil into. rank 0 is a vector. layers None: the best one; empty: all.

    samples: texts to learn from, of max_tokens at most; held_out: others, which decide what R is.

    Raises:
        UsageError: a number out of its range.
    """

    name: str
    rank: int = 8
    layers: tuple[int, ...] | None = None
    scope: Literal["all", "response"] = "all"
    steps: int = 300
    samples: int = 1024
    held_out: int = 128
    max_tokens: int = 128
    batch_size: int = 16
    learning_rate: float = 0.01
    seed: int = 0
    description: str = ""
    license: str = ""

    def __post_init__(self) -> None:
        for name in ("steps", "samples", "held_out", "max_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} is at least 1")
        if self.rank < 0 or self.seed < 0:
            raise UsageError("--rank and --seed are 0 or more")

    @property
    def validation(self) -> int:
        """Texts that decide which state is kept, so that those which give R do not."""
        return max(1, self.held_out // 2)

    def schedule(self, steps: int) -> Schedule:
        return Schedule(steps, self.learning_rate, self.batch_size, self.seed)


@dataclass(frozen=True)
class Task:
    """What every run of a distillation has in common.

    `lessons` are learned from; `validation` texts decide which state is kept. base: sum of
    KL(p_condition || p_base) over the validation texts.
    """

    model: Model
    lessons: Sequence[Lesson]
    validation: Sequence[Lesson]
    teacher: Teacher
    base: float

    @classmethod
    def of(
        cls, model: Model, lessons: Sequence[Lesson], validation: Sequence[Lesson], teacher: Teacher
    ) -> Task:
        """A task with its `base`.

        Raises:
            InputError: the condition changes nothing.
        """
        task = cls(
            model, lessons, validation, teacher, sum(divergences(model, validation, teacher, None))
        )
        if task.per_token < LEAST_EFFECT:
            raise InputError(
                "the condition changes nothing in what the model writes",
                hint="does the model heed it as a prompt? see with `steer apply`",
            )
        return task

    @property
    def per_token(self) -> float:
        """Mean KL(p_condition || p_base) of a token, in nats."""
        return self.base / sum(lesson.n for lesson in self.validation)

    def recovered(self, edits: Edits) -> float:
        """R on the validation texts."""
        return 1 - sum(divergences(self.model, self.validation, self.teacher, edits)) / self.base


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
    batches = _Batches(task.lessons, schedule)
    every = max(CHECKED_STEPS, -(-schedule.steps // CHECKS))
    best, best_step, state = 0.0, 0, edits.copy()
    now: float | None = None
    for step in range(1, schedule.steps + 1):
        optimizer.zero_grad()
        # In units of the whole effect, so that a weak condition is learned like a strong one.
        backward(task.model, edits, batches.draw(), task.teacher, task.per_token)
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
