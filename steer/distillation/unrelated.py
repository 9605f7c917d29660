"""The side effect of an edit, a token or a prompt: divergence from the plain model on unrelated
texts, which are facts, sums and code (`steer.contrasts.prompts.UNRELATED`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from steer.base.intervals import Interval, ratio
from steer.contrasts.frame import joinable
from steer.contrasts.prompts import UNRELATED
from steer.distillation.lessons import Conditions, Lesson
from steer.distillation.lowrank import Edits, Teacher, divergences
from steer.models.model import Model


@dataclass(frozen=True)
class UnrelatedTexts:
    """Unrelated texts, with the plain model's probabilities.

    lessons: each with the condition before it, and with the baseline; texts that are empty or too
    long for the model are left out.
    """

    model: Model
    lessons: list[Lesson]
    teacher: Teacher

    @classmethod
    def of(cls, model: Model, conditions: Conditions) -> UnrelatedTexts:
        lessons = [_lesson(model, conditions, question, answer) for question, answer in UNRELATED]
        room = model.context or max(len(lesson.conditioned) for lesson in lessons)
        lessons = [lesson for lesson in lessons if lesson.n and len(lesson.conditioned) <= room]
        plain = [replace(lesson, conditioned=lesson.baseline) for lesson in lessons]
        return cls(model, lessons, Teacher(model, plain))

    def beside_condition(self, steered: Callable[[], Interval]) -> tuple[Interval, Interval] | None:
        """KL of a steered model and of the condition, in nats per token; None if there are no
        texts."""
        return (steered(), self.of_condition()) if self.lessons else None

    def of_condition(self) -> Interval:
        """KL(p_base || p_condition) in nats per token."""
        swapped = [Lesson(lesson.baseline, lesson.conditioned, lesson.n) for lesson in self.lessons]
        return self.per_token(divergences(self.model, swapped, self.teacher, None))

    def of_edits(self, edits: Edits) -> Interval:
        """KL(p_base || p_edited) in nats per token."""
        return self.steered(lambda lessons: divergences(self.model, lessons, self.teacher, edits))

    def steered(self, sums: Callable[[Sequence[Lesson]], Sequence[float]]) -> Interval:
        """KL(p_base || p_steered) in nats per token.

        sums: gives the sum over the tokens of each lesson of KL(p_conditioned || p_steered).
        """
        return self.per_token(
            sums([replace(lesson, conditioned=lesson.baseline) for lesson in self.lessons])
        )

    def per_token(self, sums: Sequence[float]) -> Interval:
        """The mean per token of the sums of all texts, with its interval."""
        return ratio(sums, [lesson.n for lesson in self.lessons])


def _lesson(model: Model, conditions: Conditions, question: str, answer: str) -> Lesson:
    """A question and its answer; the loss is on the answer."""

    def before(text: str) -> list[int]:
        if conditions.chat:
            return model.encode(model.chat(question, text or None), special=False)
        return model.encode(f"{joinable(text)}{question}\n")

    own = model.encode(answer, special=False)
    conditioned, baseline = (
        (*before(text), *own) for text in (conditions.condition, conditions.baseline)
    )
    return Lesson(conditioned, baseline, len(own))
