"""The task of a distillation: texts under a condition, and the probabilities of their tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from steer.base.errors import InputError
from steer.base.progress import Progress, silent
from steer.distillation.below import BlockOutputs
from steer.distillation.checkpoints import Checkpoints
from steer.distillation.lessons import Lesson, nats_per_token, rewritten
from steer.distillation.lowrank import Edits, Teacher, backward, divergences, runs_ends
from steer.distillation.texts import Texts
from steer.models.model import Model
from steer.steering.steers import Steer

#: A condition with a smaller effect, in nats per token, counts as none.
LEAST_EFFECT = 1e-6


@dataclass(frozen=True)
class Task:
    """The task that all edits of a distillation share.

    base: sum of KL(p_condition || p_base) over the validation texts. checkpoints: of descents, so
    that an interrupted fit can be resumed.
    """

    model: Model
    texts: Texts
    teacher: Teacher
    base: float
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    _unsteered: dict[int, float] = field(default_factory=dict)
    _plain: dict[int, list[Lesson]] = field(default_factory=dict)
    _below: dict[int, BlockOutputs | None] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: Model,
        texts: Texts,
        teacher: Teacher | None = None,
        progress: Progress = silent,
        checkpoints: Checkpoints | None = None,
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
        task = cls(model, texts, teacher, base, checkpoints or Checkpoints())
        if task.per_token < LEAST_EFFECT:
            raise InputError(
                "the condition does not change the model's texts",
                hint="check its effect as a prompt with `steer apply`",
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
        """Compute, once for all steps of a descent, the conditioned model's last hidden states and
        the residual stream below the first edit."""
        first = edits.sites[0].layer
        lessons = [*self.lessons, *self.texts.validation]
        with progress("reading what stays below the edit", 2 * len(lessons)) as advance:
            self.teacher.keep(lessons, advance)
            self._below[first] = self._read_below(edits, lessons, advance)

    def backward(self, edits: Edits, lessons: Sequence[Lesson]) -> None:
        """Add the gradient of the loss on some lessons.

        The unit is the full effect, so that a weak condition is learned like a strong one.
        """
        below = self._below.get(edits.sites[0].layer)
        if below is not None and not below.has(lessons):
            below = None
        backward(self.model, edits, lessons, self.teacher, self.per_token, below)

    def recovered(self, edits: Edits) -> float:
        """R on the validation texts."""
        texts, first = self.texts.validation, edits.sites[0].layer
        if first not in self._below:
            self._below[first] = self._read_below(edits, texts)
        left = divergences(self.model, texts, self.teacher, edits, below=self._below[first])
        return 1 - sum(left) / self.base

    def _read_below(
        self,
        edits: Edits,
        lessons: Sequence[Lesson],
        on_done: Callable[[int], None] = lambda n_texts: None,
    ) -> BlockOutputs | None:
        """The stream below the first edit; None where it saves less than running only what is
        edited after the keys and values of what stands before."""
        first = edits.sites[0].layer
        if 2 * first < self.model.n_layers and runs_ends(self.model, edits, lessons):
            on_done(len(lessons))
            return None
        return BlockOutputs.of(self.model, lessons, first, on_done)

    def plain(self, seed: int) -> list[Lesson]:
        """Texts of the plain model after the beginnings of held-out texts, as lessons."""
        if seed not in self._plain:
            held_out = self.texts.held_out
            written = rewritten(self.model, held_out, (), seed=seed)
            self._unsteered[seed] = nats_per_token(self.model, written)
            self._plain[seed] = [
                Lesson(
                    (*lesson.conditioned[: len(lesson.conditioned) - lesson.n], *row[-n:]), row, n
                )
                for lesson, (row, n) in zip(held_out, written, strict=True)
                if n
            ]
        return self._plain[seed]

    def own_nats(self, steers: tuple[Steer, ...], seed: int) -> float:
        """Nats per token, under the unsteered model, of texts generated with `steers` after the
        beginnings of held-out texts.
        """
        if steers:
            written = rewritten(self.model, self.texts.held_out, steers, seed=seed)
            return nats_per_token(self.model, written)
        self.plain(seed)
        return self._unsteered[seed]
