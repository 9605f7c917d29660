"""Gradient descent of an edit, stable without tuning by the user.

Gradients are clipped; each parameter has its own step size (`Edits.units`). The learning rate warms
up, stays constant until the validation recovery stops improving, and decays to 0 over half as many
steps (warm-up, stable, decay: Hu et al. 2024, arXiv 2404.06395), so an easy condition takes few
steps and a hard one all. An exponential mean of the last states is validated, and the best one is
kept. An interrupted descent resumes at its last validation.
"""

from __future__ import annotations

import hashlib
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from steer.base.progress import Progress
from steer.distillation.checkpoints import Checkpoint, Checkpoints
from steer.distillation.lessons import Lesson
from steer.distillation.lowrank import Edits, State
from steer.distillation.quick import cheap_gradients
from steer.distillation.settings import Schedule
from steer.models.model import Model

#: The number of layers to try by default, evenly spread.
CANDIDATES = 8

#: A gradient is clipped to this multiple of the median norm of the last `REMEMBERED`: where the
#: condition nearly determines a word, the gradient of a text can be ten times as long as others.
CLIP = 1.5
REMEMBERED = 50

#: The number of batches whose lessons are sorted by length together.
SORTED_TOGETHER = 8
#: The number of validations in a full run, the least steps between two, and the least gain of R
#: between two to continue at the full rate.
CHECKS = 10
CHECKED_STEPS = 25
GAIN = 0.005
#: The length of the exponential mean of states.
AVERAGED = 20


class _HasLength(Protocol):
    @property
    def length(self) -> int: ...


Item = TypeVar("Item", bound=_HasLength)


class Objective(Protocol[Item]):
    """A task for edits: `lessons` with a loss, and a validation on other texts.

    read: texts for measuring the scale of activations. checkpoints: of its descents.
    """

    @property
    def model(self) -> Model: ...
    @property
    def lessons(self) -> Sequence[Item]: ...
    @property
    def read(self) -> Sequence[Lesson]: ...
    @property
    def checkpoints(self) -> Checkpoints: ...

    def backward(self, edits: Edits, lessons: Sequence[Item]) -> None:
        """Add the gradient of the loss, which is about 1 without an edit."""

    def recovered(self, edits: Edits) -> float:
        """The recovery: 1 is the full effect, 0 that of no edit."""


def candidates(layers: Sequence[int]) -> tuple[int, ...]:
    """At most `CANDIDATES` of these layers, evenly spread."""
    spread = np.linspace(0, len(layers) - 1, min(CANDIDATES, len(layers)))
    return tuple(layers[round(index)] for index in spread)


def descend(
    task: Objective[Item],
    edits: Edits,
    schedule: Schedule,
    on_step: Callable[[float | None], None] = lambda recovered: None,
    checkpoint: Checkpoint | None = None,
) -> tuple[float, int]:
    """Minimise the loss, and leave `edits` at their best state.

    `on_step` is called with the last R on the validation texts, also for the steps of an earlier
    run up to its last `checkpoint`. Returns R of the best state and its step; step 0 is the initial
    edit: that of a regression, or none (R = 0).

    Raises:
        SteerError: the checkpoint cannot be read or written.
    """
    batches = _Batches(task.lessons, schedule)
    every = max(CHECKED_STEPS, -(-schedule.steps // CHECKS))
    at = _Run(edits, schedule.steps)
    checkpoint = Checkpoint() if checkpoint is None else checkpoint
    kept = checkpoint.read(at.packed())
    if kept is not None:
        at.unpack(kept)
        for _ in range(at.step):
            batches.draw()
            on_step(at.now)
    elif edits.has_effect:
        at.best = at.now = task.recovered(edits)
    while at.step < at.end:
        at.optimizer.zero_grad()
        with cheap_gradients(task.model):
            task.backward(edits, batches.draw())
        _clip(edits, at.lengths)
        for group in at.optimizer.param_groups:
            group["lr"] = group["unit"] * schedule.rate(at.step, at.end)
        at.optimizer.step()
        at.step += 1
        at.average.add(edits)
        if at.step % every == 0 or at.step == at.end:
            with at.average.as_edit(edits):
                at.now = task.recovered(edits)
                if at.now < at.best + GAIN:
                    at.end = min(at.end, schedule.falling(at.step))
                if at.now > at.best:
                    at.best, at.best_step, at.state = at.now, at.step, edits.copy()
            checkpoint.write(at.packed())
        on_step(at.now)
    edits.restore(at.state)
    return at.best, at.best_step


def descended(
    task: Objective[Item], edits: Edits, schedule: Schedule, activity: str, progress: Progress
) -> tuple[float, int]:
    """Run or resume the descent; returns R of the best state, and its step."""
    digest = hashlib.sha256()
    for part in edits.parameters:
        digest.update(part.detach().cpu().numpy().tobytes())
    checkpoint = task.checkpoints.checkpoint(schedule, edits.sites, edits.start, digest.hexdigest())
    with progress(activity, schedule.steps) as advance:

        def on_step(recovered: float | None) -> None:
            advance(1, None if recovered is None else f"recovery {recovered:.2f}")

        return descend(task, edits, schedule, on_step, checkpoint)


class _Run:
    """The state of a descent: the edit, its optimiser, its mean, and the best state so far."""

    def __init__(self, edits: Edits, end: int) -> None:
        # The second moment averages over 100 steps, not 1000, since a run has a few hundred.
        groups = [
            {"params": [part], "unit": unit}
            for site, parts in edits.state.items()
            for part, unit in zip(parts, edits.units[site], strict=True)
        ]
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
        self.average = _Average(edits)
        self.lengths: deque[float] = deque(maxlen=REMEMBERED)
        self.step, self.end = 0, end
        self.best, self.best_step = 0.0, 0
        self.now: float | None = None
        self.state = edits.copy()
        self._edits = edits

    def packed(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint, by name."""
        now = float("nan") if self.now is None else self.now
        numbers = [self.step, self.end, self.best, self.best_step, now, self.average.n]
        named = {
            "numbers": torch.tensor(numbers, dtype=torch.float64),
            "lengths": torch.tensor(list(self.lengths), dtype=torch.float64),
        }
        for name, state in self._states().items():
            for place, parts in enumerate(state.values()):
                for index, part in enumerate(parts):
                    named[f"{name}.{place}.{index}"] = part.detach()
        for place, part in enumerate(self._edits.parameters):
            moments = self.optimizer.state.get(part, {})
            for name in ("exp_avg", "exp_avg_sq"):
                named[f"{name}.{place}"] = moments.get(name, torch.zeros_like(part.detach()))
        return named

    def unpack(self, named: dict[str, Tensor]) -> None:
        """Continue from the tensors of `packed`."""
        step, end, best, best_step, now, n = named["numbers"].tolist()
        self.step, self.end, self.best_step = int(step), int(end), int(best_step)
        self.best, self.now = best, None if now != now else now
        self.lengths.extend(named["lengths"].tolist())
        self.average.n = int(n)
        with torch.no_grad():
            for name, state in self._states().items():
                for place, parts in enumerate(state.values()):
                    for index, part in enumerate(parts):
                        part.copy_(named[f"{name}.{place}.{index}"])
        for place, part in enumerate(self._edits.parameters):
            self.optimizer.state[part] = {
                "step": torch.tensor(float(self.step)),
                **{
                    name: named[f"{name}.{place}"].to(part.device)
                    for name in ("exp_avg", "exp_avg_sq")
                },
            }

    def _states(self) -> dict[str, State]:
        return {"edit": self._edits.state, "mean": self.average.state, "best": self.state}


class _Average:
    """The mean of an edit's last states."""

    def __init__(self, edits: Edits) -> None:
        self.state, self.n = edits.copy(), 0

    def add(self, edits: Edits) -> None:
        """Update the mean with the edit's current state."""
        self.n += 1
        for site, parts in edits.copy().items():
            for mean, part in zip(self.state[site], parts, strict=True):
                mean.lerp_(part, 1 / min(self.n, AVERAGED))

    @contextmanager
    def as_edit(self, edits: Edits) -> Iterator[None]:
        """Use the mean as the edit inside the block."""
        now = edits.copy()
        edits.restore(self.state)
        yield
        edits.restore(now)


def _clip(edits: Edits, lengths: deque[float]) -> None:
    """Clip the gradient, in units of steps, by the norms of earlier ones; append its norm."""
    gradients = [
        (part.grad, unit)
        for site, parts in edits.state.items()
        for part, unit in zip(parts, edits.units[site], strict=True)
        if part.grad is not None
    ]
    length = float(sum((unit * grad).square().sum() for grad, unit in gradients)) ** 0.5
    most = CLIP * statistics.median(lengths) if lengths else length
    lengths.append(length)
    if length > most:
        for grad, _ in gradients:
            grad.mul_(most / length)


class _Batches(Generic[Item]):
    """Batches of lessons of similar length, in a random order, each lesson equally often."""

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
        """Sort the lessons of some batches by length, so that they need little padding."""
        together = SORTED_TOGETHER * self._size
        while len(self._queue) < together:
            self._queue += self._rng.permutation(len(self._lessons)).tolist()
        drawn, self._queue = self._queue[:together], self._queue[together:]
        drawn.sort(key=lambda index: self._lessons[index].length)
        batches = [drawn[start : start + self._size] for start in range(0, together, self._size)]
        self._ready = [batches[index] for index in self._rng.permutation(len(batches))]
