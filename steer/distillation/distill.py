"""A prompt condition into an edit of the residual stream that does what the condition does.

Context distillation (Askell et al. 2021, arXiv 2112.00861) into a low-rank edit of representations
(ReFT, Wu et al. 2024, arXiv 2404.03592). The model is frozen; the edit minimises, per token,

    KL(p(. | condition, prompt, text) || p_edited(. | baseline, prompt, text))

over texts that the conditioned model has written. `Edits` has the form, `recovery` the measure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from steer.distillation.descent import (
    CANDIDATES,
    SEARCH_STEPS,
    DistillSettings,
    Task,
    candidates,
    descend,
)
from steer.distillation.distilled import as_vector, scales, with_evidence
from steer.distillation.lessons import Conditions, Lesson, write_lessons
from steer.distillation.lowrank import Edits, Teacher, divergences
from steer.distillation.recovery import recovery
from steer.errors import InputError, UsageError
from steer.models.model import Model
from steer.sites import Site
from steer.vectors.provenance import ContrastSummary
from steer.vectors.vector import SteeringVector

#: Prompts from which on some are held out; with fewer, other texts after the same ones are.
ENOUGH_PROMPTS = 10

#: Gets what is being done, how many units of `n_units` were just done, and R so far, once known.
Progress = Callable[[str, int, float | None], None]


def n_units(model: Model, settings: DistillSettings) -> int:
    """Units of work that `Progress` counts: texts that are sampled, and steps."""
    texts = settings.samples + settings.validation + settings.held_out
    searched = 0 if settings.layers is not None else min(CANDIDATES, model.n_layers)
    return texts + searched * SEARCH_STEPS + settings.steps


@dataclass(frozen=True, slots=True)
class _Texts:
    lessons: list[Lesson]
    validation: list[Lesson]
    held_out: list[Lesson]


def distill(
    model: Model,
    conditions: Conditions,
    prompts: Sequence[str],
    settings: DistillSettings,
    on_progress: Progress = lambda what, n, recovered: None,
) -> SteeringVector:
    """The edit that does most of what the condition does, with what it recovers and costs.

    Raises:
        InputError: the condition changes nothing, or no edit was found that comes nearer to it
            than the unsteered model does.
        SiteError: a layer that the model does not have.
        UsageError: a rank above the model's width.
    """
    if settings.rank > model.identity.d_model:
        raise UsageError(f"--rank is at most {model.identity.d_model}, the width of the model")
    for layer in settings.layers or ():
        model.hooks.place(Site(layer))
    texts = _write(model, conditions, prompts, settings, on_progress)
    teacher = Teacher(model)
    task = Task.of(model, texts.lessons, texts.validation, teacher)
    edits, best_step = _fit(task, scales(model, texts.validation), settings, on_progress)
    base = divergences(model, texts.held_out, teacher, None)
    found = recovery(divergences(model, texts.held_out, teacher, edits), base)
    if best_step == 0 or found.value <= 0:
        raise InputError(
            "no edit was found that comes nearer to the condition than the unsteered model",
            hint="try more --samples and --steps, a higher --rank or --layers all",
        )
    asked = [conditions.condition, conditions.baseline, conditions.chat, list(prompts)]
    contrast = ContrastSummary(
        kind="condition",
        n=len(texts.lessons),
        sha256=hashlib.sha256(json.dumps(asked).encode()).hexdigest(),
        positive=conditions.condition,
        negative=conditions.baseline,
    )
    vector = as_vector(model, settings, edits, texts.held_out, contrast, chat=conditions.chat)
    return with_evidence(model, settings, vector, texts.held_out, found, best_step)


def _fit(
    task: Task, scale: dict[Site, float], settings: DistillSettings, on_progress: Progress
) -> tuple[Edits, int]:
    """Edits at the layers of the settings, or at the one at which a short run comes furthest."""
    response = settings.scope == "response"

    def run(layers: Sequence[int], steps: int, what: str) -> tuple[Edits, float, int]:
        here = {Site(layer): scale[Site(layer)] for layer in layers}
        edits = Edits(task.model, here, settings.rank, settings.seed, response=response)
        best, best_step = descend(
            task,
            edits,
            settings.schedule(steps),
            lambda recovered: on_progress(what, 1, recovered),
        )
        return edits, best, best_step

    every = [site.layer for site in scale]
    layers = every if settings.layers == () else settings.layers
    if layers is None:
        reached = {
            layer: run((layer,), SEARCH_STEPS, f"trying layer {layer}")[1]
            for layer in candidates(every)
        }
        layers = (max(reached, key=lambda layer: reached[layer]),)
    edits, _, best_step = run(layers, settings.steps, "distilling")
    return edits, best_step


def _write(
    model: Model,
    conditions: Conditions,
    prompts: Sequence[str],
    settings: DistillSettings,
    on_progress: Progress,
) -> _Texts:
    """Texts to learn from, and others after prompts that were held out, where there are enough."""
    learned = other = list(prompts)
    n_other = settings.validation + settings.held_out
    first = -(-settings.samples // len(learned)) * len(learned)  # the next text of each prompt
    if len(prompts) >= ENOUGH_PROMPTS:
        order = np.random.default_rng([settings.seed, 2]).permutation(len(prompts)).tolist()
        shuffled = [prompts[index] for index in order]
        n_held_out = len(prompts) // 5
        other, learned, first = shuffled[:n_held_out], shuffled[n_held_out:], 0

    def write(chosen: list[str], samples: range) -> list[Lesson]:
        return write_lessons(
            model,
            conditions,
            chosen,
            samples,
            max_tokens=settings.max_tokens,
            seed=settings.seed,
            on_done=lambda count: on_progress("sampling", count, None),
        )

    lessons = write(learned, range(settings.samples))
    new = write(other, range(first, first + n_other))
    cut = max(1, len(new) - settings.held_out)
    return _Texts(lessons, new[:cut], new[cut:])
