"""The texts of a distillation: for training, for validation, and for the measure.

Sampling takes as long as fitting an edit, so one set serves edits of any rank and layers. A journal
stores it, to resume after a kill and to fit other ranks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from steer import resuming
from steer.base.journal import Journal
from steer.base.progress import Progress, silent
from steer.distillation.lessons import Conditions, Lesson, write_lessons
from steer.distillation.settings import DistillSettings
from steer.models.model import Model
from steer.vectors.provenance import ContrastSummary

#: The fewest prompts to hold some out; with fewer, other texts after the same prompts are held out.
ENOUGH_PROMPTS = 10


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts of the conditioned model.

    `lessons` are for training, `validation` for choosing the state to keep, `held_out` for the
    reported measure.
    """

    conditions: Conditions
    prompts: tuple[str, ...]
    lessons: list[Lesson]
    validation: list[Lesson]
    held_out: list[Lesson]

    @property
    def contrast(self) -> ContrastSummary:
        """The summary of the condition for vector files."""
        inputs = [*asdict(self.conditions).values(), self.prompts]
        return ContrastSummary(
            kind="condition",
            n=len(self.lessons),
            sha256=hashlib.sha256(json.dumps(inputs).encode()).hexdigest(),
            positive=self.conditions.condition,
            negative=self.conditions.baseline,
        )


def journal(
    model: Model, conditions: Conditions, prompts: Sequence[str], settings: DistillSettings
) -> Journal:
    """The journal of the texts, by a key of everything that they depend on.

    Raises:
        SteerError: it cannot be read or written.
    """
    return resuming.journal(
        model,
        "lessons",
        [asdict(conditions), list(prompts)],
        [settings.samples, settings.held_out, settings.max_tokens, settings.seed],
        # Learned tokens that the condition contains.
        *([[list(token.ids) for token in model.tokens]] if model.tokens else []),
    )


def write(
    model: Model,
    conditions: Conditions,
    prompts: Sequence[str],
    settings: DistillSettings,
    progress: Progress = silent,
    kept: Journal | None = None,
) -> Texts:
    """Sample texts for training, and others after held-out prompts, if there are enough prompts.

    Raises:
        InputError: the model generates nothing, or a prompt leaves no room.
    """
    learned = other = list(prompts)
    n_other = settings.validation + settings.held_out
    first = -(-settings.samples // len(learned)) * len(learned)  # the next text of each prompt
    if len(prompts) >= ENOUGH_PROMPTS:
        order = np.random.default_rng([settings.seed, 2]).permutation(len(prompts)).tolist()
        shuffled = [prompts[index] for index in order]
        n_held_out = len(prompts) // 5
        other, learned, first = shuffled[:n_held_out], shuffled[n_held_out:], 0

    with progress("sampling texts", settings.samples + n_other) as advance:

        def written(chosen: list[str], samples: range) -> list[Lesson]:
            return write_lessons(
                model,
                conditions,
                chosen,
                samples,
                max_tokens=settings.max_tokens,
                seed=settings.seed,
                on_done=advance,
                kept=kept,
            )

        lessons = written(learned, range(settings.samples))
        new = written(other, range(first, first + n_other))
    cut = max(1, len(new) - settings.held_out)
    return Texts(conditions, tuple(prompts), lessons, new[:cut], new[cut:])
