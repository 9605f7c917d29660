"""What edits are fitted to: a condition's texts, and how likely it makes each token of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from steer.base.errors import InputError
from steer.base.progress import Progress, silent
from steer.distillation.below import Below
from steer.distillation.lessons import Lesson, nats_per_token, rewritten
from steer.distillation.lowrank import Edits, Teacher, backward, divergences
from steer.distillation.texts import Texts
from steer.models.model import Model
from steer.steering.steers import Steer

#: A condition that moves the next token by less than this many nats cannot be told from none.
LEAST_EFFECT = 1e-6


@dataclass(frozen=True)
class Task:
    """What every edit of a distillation has in common.

    base: sum of KL(p_condition || p_base) over the validation texts.
    """

    model: Model
    texts: Texts
    teacher: Teacher
    base: float
    _unsteered: dict[int, float] = field(default_factory=dict)
    _plain: dict[int, list[Lesson]] = field(default_factory=dict)
    _below: dict[int, Below | None] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: Model,
        texts: Texts,
        teacher: Teacher | None = None,
        progress: Progress = silent,
    ) -> Task:
        """A task with its `base`.

        Raises:
            InputError: the condition changes nothing.
        """
        with progress("measuring the condition", 2) as advance:
            if teacher is None:
                teacher = Teacher(model, [*texts.validation, *texts.held_out])
            advance(1)
            base = sum(divergences(model, texts.validation, teacher, None))
            advance(1)
        task = cls(model, texts, teacher, base)
        if task.per_token < LEAST_EFFECT:
            raise InputError(
                "the condition changes nothing in what the model writes",
                hint="does the model heed it as a prompt? see with `steer apply`",
            )
        return task

    @property
    def lessons(self) -> list[Lesson]:
        return self.texts.lessons

    @property
    def read(self) -> list[Lesson]:
        return self.texts.validation

    @property
    def per_token(self) -> float:
        """Mean KL(p_condition || p_base) of a token, in nats."""
        return self.base / sum(lesson.n for lesson in self.texts.validation)

    def prepare(self, edits: Edits, progress: Progress) -> None:
        """Compute once what every step of a descent of these edits needs of its lessons: the
        conditioned model's last hidden states, and the stream below the first edit."""
        first = edits.sites[0].layer
        lessons = [*self.lessons, *self.texts.validation]
        with progress("reading what stays below the edit", 2 * len(lessons)) as advance:
            self.teacher.keep(lessons, advance)
            self._below[first] = Below.of(self.model, lessons, first, advance)

    def backward(self, edits: Edits, lessons: Sequence[Lesson]) -> None:
        """Add the gradient of the loss on some lessons.

        It is in units of the whole effect, so that a weak condition is learned like a strong one.
        """
        below = self._below.get(edits.sites[0].layer)
        if below is not None and not below.has(lessons):
            below = None
        backward(self.model, edits, lessons, self.teacher, self.per_token, below)

    def recovered(self, edits: Edits) -> float:
        """R on the validation texts."""
        texts, first = self.texts.validation, edits.sites[0].layer
        if first not in self._below:
            self._below[first] = Below.of(self.model, texts, first)
        left = divergences(self.model, texts, self.teacher, edits, below=self._below[first])
        return 1 - sum(left) / self.base

    def plain(self, seed: int) -> list[Lesson]:
        """Texts of the plain model where the held-out texts begin, after both beginnings."""
        if seed not in self._plain:
            held_out = self.texts.held_out
            written = rewritten(self.model, held_out, (), seed=seed)
            self._unsteered[seed] = nats_per_token(self.model, written)
            self._plain[seed] = [
                Lesson((*one.conditioned[: len(one.conditioned) - one.n], *row[-n:]), row, n)
                for one, (row, n) in zip(held_out, written, strict=True)
                if n
            ]
        return self._plain[seed]

    def own_nats(self, steers: tuple[Steer, ...], seed: int) -> float:
        """Nats per token, under the unsteered model, of what it writes with `steers` where the
        held-out texts begin.
        """
        if steers:
            written = rewritten(self.model, self.texts.held_out, steers, seed=seed)
            return nats_per_token(self.model, written)
        self.plain(seed)
        return self._unsteered[seed]
