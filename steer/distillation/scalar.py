"""A learned token with a coefficient c for the strength of the condition: e(c) = e0 + c (e1 - e0).

It is trained on guided targets (classifier-free guidance; Sanchez et al. 2023, arXiv 2306.17806),

    log p_base + c (log p_condition - log p_base)    + constant,

for c over a range: texts of the conditioned model for c from 0.5 up, and texts of the plain model
for c below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from steer.base.intervals import Interval
from steer.base.journal import Journal
from steer.base.progress import Progress
from steer.distillation.lessons import Conditions, Lesson, micro_batches, picked_logits
from steer.distillation.lowrank import Teacher, by_lesson
from steer.distillation.recovery import Divergence, recovery, token_kl
from steer.distillation.settings import DistillSettings
from steer.distillation.task import Task
from steer.distillation.texts import Texts, write
from steer.hooks.tokens import embedded, substitute_tokens
from steer.models.model import Model
from steer.steering.tokens import LearnedToken

#: The coefficients in training, and those at which recovery is measured.
RANGE = (-1.0, 2.0)
MEASURED = (-1.0, 0.5, 1.0, 1.5, 2.0)
#: Below this coefficient, texts of the plain model are used; above, those of the conditioned one.
BETWEEN = 0.5
#: Texts that run together.
TOGETHER = 16
#: Losses are divided by the squared coefficient plus this, so that those at large coefficients do
#: not outweigh the others.
LEAST_SQUARE = 0.25


@dataclass(frozen=True, slots=True)
class GuidedLesson:
    """A text, and the coefficient of its target, the guided distribution."""

    lesson: Lesson
    coefficient: float

    @property
    def n(self) -> int:
        return self.lesson.n


def plain_texts(
    model: Model,
    texts: Texts,
    settings: DistillSettings,
    progress: Progress,
    kept: Journal | None,
) -> Texts:
    """Texts of the plain model, as lessons with the same two beginnings."""
    conditions = texts.conditions
    swapped = Conditions(conditions.baseline, conditions.condition, conditions.chat)
    fewer = replace(settings, samples=-(-settings.samples // 2))
    plain = write(model, swapped, texts.prompts, fewer, progress, kept)

    def swapped_sides(lessons: Sequence[Lesson]) -> list[Lesson]:
        return [Lesson(lesson.baseline, lesson.conditioned, lesson.n) for lesson in lessons]

    return Texts(
        conditions,
        texts.prompts,
        swapped_sides(plain.lessons),
        swapped_sides(plain.validation),
        swapped_sides(plain.held_out),
    )


@dataclass
class ScalarLearner:
    """e0 and e1 - e0 of a token in training.

    state: float32 [2, K, d_model], in units of `scale`. plain: texts of the plain model.
    """

    task: Task
    plain: Texts
    scale: float
    state: Tensor
    seed: int
    _tokens: list[LearnedToken] = field(default_factory=list)
    _base: Teacher | None = None

    def __post_init__(self) -> None:
        _, count, width = self.state.shape
        rng = np.random.default_rng(0)
        self._tokens = [
            LearnedToken(f"row {index}", rng.normal(size=(count, width)).astype(np.float32))
            for index in range(TOGETHER)
        ]
        self._base = Teacher(self.task.model)
        texts = self.task.texts
        groups = (texts.lessons, texts.validation, texts.held_out)
        own = (self.plain.lessons, self.plain.validation, self.plain.held_out)
        for lessons in (*groups, *own):
            self.task.teacher.keep(lessons)
            self._base.keep(
                [Lesson(lesson.baseline, lesson.baseline, lesson.n) for lesson in lessons]
            )

    @property
    def lessons(self) -> list[GuidedLesson]:
        """Every text, with a random coefficient of the range that its writer stands for."""
        rng = np.random.default_rng([self.seed, 4])
        above = [
            GuidedLesson(lesson, rng.uniform(BETWEEN, RANGE[1]))
            for lesson in self.task.texts.lessons
        ]
        below = [
            GuidedLesson(lesson, rng.uniform(RANGE[0], BETWEEN)) for lesson in self.plain.lessons
        ]
        return [*above, *below]

    def targets(self, items: Sequence[GuidedLesson]) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the guided and of the plain model, [sum of n, vocabulary]."""
        assert self._base is not None
        lessons = [item.lesson for item in items]
        plain = self._base(
            [Lesson(lesson.baseline, lesson.baseline, lesson.n) for lesson in lessons]
        )
        under = self.task.teacher(lessons)
        times = torch.cat([torch.full((item.n, 1), item.coefficient) for item in items]).to(plain)
        return (plain + times * (under - plain)).log_softmax(-1), plain

    def losses(self, items: Sequence[GuidedLesson], state: Tensor) -> Tensor:
        """KL(guided || token) of each token, float32 [sum of n]."""
        guided, _ = self.targets(items)
        tokens = self._tokens[: len(items)]
        rows = torch.cat([state[0] + item.coefficient * state[1] for item in items]) * self.scale
        model = self.task.model
        with embedded(model, tokens, rows):
            logits = picked_logits(
                model,
                [
                    (substitute_tokens(model, [token], item.lesson.baseline), item.n)
                    for token, item in zip(tokens, items, strict=True)
                ],
            )
        losses: Tensor = Divergence.apply(logits, guided)  # type: ignore[no-untyped-call]
        return losses

    def gradient(self, items: Sequence[GuidedLesson], state: Tensor) -> Tensor:
        """The gradient of the mean divergence per token, in units of the effect at each
        coefficient."""
        state = state.detach().clone().requires_grad_()
        denominator = self.task.per_token * sum(item.n for item in items)
        for part in _parts(self.task.model, items):
            weights = torch.cat(
                [torch.full((item.n,), 1 / (LEAST_SQUARE + item.coefficient**2)) for item in part]
            )
            loss = self.losses(part, state)
            ((loss * weights.to(loss)).sum() / denominator).backward()  # type: ignore[no-untyped-call]
        assert state.grad is not None
        return state.grad

    def recovered(self, state: Tensor) -> float:
        """The mean of R at `MEASURED`, on the validation texts."""
        recoveries = [
            self.recovery(value, state, self.task.texts.validation, self.plain.validation).value
            for value in MEASURED
        ]
        return sum(recoveries) / len(recoveries)

    @torch.no_grad()
    def recovery(
        self, value: float, state: Tensor, under: Sequence[Lesson], plain: Sequence[Lesson]
    ) -> Interval:
        """R of the guided distribution at a coefficient, on texts of the nearer model: the
        conditioned or the plain one."""
        items = [GuidedLesson(lesson, value) for lesson in (under if value >= BETWEEN else plain)]
        left: list[float] = []
        total: list[float] = []
        for part in _parts(self.task.model, items):
            lessons = [item.lesson for item in part]
            guided, base = self.targets(part)
            left += [float(tokens.sum()) for tokens in by_lesson(self.losses(part, state), lessons)]
            total += [float(tokens.sum()) for tokens in by_lesson(token_kl(guided, base), lessons)]
        return recovery(left, total)


def _parts(model: Model, items: Sequence[GuidedLesson]) -> list[Sequence[GuidedLesson]]:
    """Parts that fit in memory and within the available rows."""
    size = min(TOGETHER, len(micro_batches(model, [item.lesson for item in items])[0]))
    return [items[start : start + size] for start in range(0, len(items), size)]
