"""What edits are fitted to: a condition's texts, and how likely it makes each token of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from steer.base.errors import InputError
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

    @classmethod
    def of(cls, model: Model, texts: Texts, teacher: Teacher | None = None) -> Task:
        """A task with its `base`.

        Raises:
            InputError: the condition changes nothing.
        """
        if teacher is None:
            # Each lesson is met a few times only: to remember them all saves a tenth of the time.
            teacher = Teacher(model, texts.validation)
        task = cls(model, texts, teacher, sum(divergences(model, texts.validation, teacher, None)))
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

    def backward(self, edits: Edits, lessons: Sequence[Lesson]) -> None:
        """Add the gradient of the loss on some lessons.

        It is in units of the whole effect, so that a weak condition is learned like a strong one.
        """
        backward(self.model, edits, lessons, self.teacher, self.per_token)

    def recovered(self, edits: Edits) -> float:
        """R on the validation texts."""
        left = divergences(self.model, self.texts.validation, self.teacher, edits)
        return 1 - sum(left) / self.base

    def own_nats(self, steers: tuple[Steer, ...], seed: int) -> float:
        """Nats per token, under the unsteered model, of what it writes with `steers` where the
        held-out texts begin.
        """
        if steers or seed not in self._unsteered:
            written = rewritten(self.model, self.texts.held_out, steers, seed=seed)
            found = nats_per_token(self.model, written)
            if steers:
                return found
            self._unsteered[seed] = found
        return self._unsteered[seed]
