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
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from steer.errors import InputError, UsageError
from steer.intervals import Interval
from steer.lessons import Conditions, Lesson, nats_per_token, rewritten, write_lessons
from steer.lowrank import Edits, Schedule, State, Teacher, divergences, train
from steer.metadata import (
    ContrastSummary,
    Distillation,
    LayerStatistics,
    Metadata,
    Method,
    Read,
    Recommended,
)
from steer.model import Model
from steer.record import record
from steer.reading import Reading
from steer.recovery import recovery
from steer.sites import Site
from steer.spec import EVERYWHERE, Coefficient, Scope
from steer.steers import Steer
from steer.vector import SteeringVector

#: Layers that are tried where none is named, evenly spread, and the steps that each of them gets.
CANDIDATES = 8
SEARCH_STEPS = 25
#: Prompts from which on some are held out; with fewer, other texts after the same ones are.
ENOUGH_PROMPTS = 10
#: A condition that moves the next token by less than this many nats cannot be told from none.
LEAST_EFFECT = 1e-7

#: Gets what is being done, how many units of `n_units` were just done, and R so far, once known.
Progress = Callable[[str, int, float | None], None]


@dataclass(frozen=True, slots=True)
class DistillSettings:
    """What to distil into. rank 0 is a vector. layers None: the best one; () means all.

    samples are learned from; `held_out` others decide what R is. max_tokens is their length.

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
    learning_rate: float = 0.005
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
    on_progress: Progress = lambda what, n, recovery: None,
) -> SteeringVector:
    """The edit that does most of what the condition does, with what it recovers and costs.

    Raises:
        InputError: the condition changes nothing, or no edit was found that comes nearer to it
            than the unsteered model does.
        SiteError: a layer that the model does not have.
    """
    if settings.rank > model.identity.d_model:
        raise UsageError(f"--rank is at most {model.identity.d_model}, the model's width")
    named = settings.layers or tuple(range(model.n_layers))
    for layer in named:
        model.hooks.place(Site(layer))
    texts = _write(model, conditions, prompts, settings, on_progress)
    teacher = Teacher(model)
    run = _Run(model, settings, texts, teacher, _scales(model, texts.validation), on_progress)
    layers = run.search() if settings.layers is None else named
    edits, best_step = run.fit(layers)
    base = divergences(model, texts.held_out, teacher, None)
    found = recovery(divergences(model, texts.held_out, teacher, edits), base)
    if best_step == 0 or found.value <= 0:
        raise InputError(
            "no edit was found that comes nearer to the condition than the unsteered model",
            hint="try more --samples and --steps, a higher --rank or --layers all",
        )
    unfinished = _vector(run, edits, conditions, prompts, layers)
    return _with_evidence(run, unfinished, found, best_step)


def _write(
    model: Model,
    conditions: Conditions,
    prompts: Sequence[str],
    settings: DistillSettings,
    on_progress: Progress,
) -> _Texts:
    n, n_validation, n_held_out = settings.samples, settings.validation, settings.held_out
    n_new = n_validation + n_held_out
    learned, other = prompts, prompts
    first = n
    if len(prompts) >= ENOUGH_PROMPTS:
        order = np.random.default_rng([settings.seed, 2]).permutation(len(prompts)).tolist()
        cut = len(prompts) // 5
        other, learned = [prompts[i] for i in order[:cut]], [prompts[i] for i in order[cut:]]
        first = 0
    else:
        first += -n % len(prompts)  # the next sample of each prompt

    def write(chosen: Sequence[str], samples: range) -> list[Lesson]:
        return write_lessons(
            model,
            conditions,
            chosen,
            samples,
            max_tokens=settings.max_tokens,
            seed=settings.seed,
            on_done=lambda count: on_progress("sampling", count, None),
        )

    lessons = write(learned, range(n))
    new = write(other, range(first, first + n_new))
    cut = max(1, len(new) * n_validation // n_new)
    return _Texts(lessons, new[:cut], new[cut:])


def _scales(model: Model, lessons: Sequence[Lesson]) -> dict[Site, float]:
    """Root mean square of the activations' entries at each layer, over the texts' own tokens."""
    sites = [Site(layer) for layer in model.hooks.layers("resid_post")]
    readings = [_reading(lesson.baseline, lesson.n) for lesson in lessons[:64]]
    norms = np.concatenate([batch.norms for batch in record(model, readings, sites)])
    width = model.identity.d_model
    return {
        site: float(norm) / width**0.5
        for site, norm in zip(sites, norms.mean(0), strict=True)
    }


def _reading(ids: tuple[int, ...], n: int) -> Reading:
    return Reading(ids, len(ids) - n, len(ids))


@dataclass
class _Run:
    model: Model
    settings: DistillSettings
    texts: _Texts
    teacher: Teacher
    scales: dict[Site, float]
    on_progress: Progress

    def __post_init__(self) -> None:
        base = divergences(self.model, self.texts.validation, self.teacher, None)
        self.base = sum(base)
        if self.base / sum(lesson.n for lesson in self.texts.validation) < LEAST_EFFECT:
            raise InputError(
                "the condition changes nothing in what the model writes",
                hint="does the model heed it as a prompt? see what it writes: steer apply",
            )

    def search(self) -> tuple[int, ...]:
        """The layer at which a short run comes furthest."""
        layers = self.model.hooks.layers("resid_post")
        spread = np.linspace(0, len(layers) - 1, min(CANDIDATES, len(layers))).round().astype(int)
        reached = {}
        for layer in (layers[index] for index in spread):
            what = f"trying layer {layer}"
            edits, _ = self.fit((layer,), SEARCH_STEPS, 1, what)
            reached[layer] = self.validate(edits)
        return (max(reached, key=lambda layer: reached[layer]),)

    def validate(self, edits: Edits) -> float:
        """R on the validation texts."""
        left = divergences(self.model, self.texts.validation, self.teacher, edits)
        return 1 - sum(left) / self.base

    def fit(
        self,
        layers: tuple[int, ...],
        steps: int | None = None,
        checks: int = 10,
        what: str = "distilling",
    ) -> tuple[Edits, int]:
        """The best state of a run on the validation texts, and its step; 0 is no edit at all."""
        settings = self.settings
        schedule = Schedule(
            steps or settings.steps,
            settings.learning_rate,
            settings.batch_size,
            settings.seed,
            checks,
        )
        scales = {Site(layer): self.scales[Site(layer)] for layer in layers}
        edits = Edits(
            self.model,
            scales,
            settings.rank,
            settings.seed,
            response=settings.scope == "response",
        )
        best: tuple[float, int, State] = (0.0, 0, edits.copy())
        so_far: float | None = None
        checked = 0

        def check(step: int) -> bool:
            nonlocal best, so_far, checked
            checked += 1
            so_far = self.validate(edits)
            if so_far > best[0]:
                best = (so_far, checked, edits.copy())
                best_steps.append(step)
            return checked - best[1] >= schedule.checks // 2 + 1

        best_steps = [0]
        train(
            self.model,
            edits,
            self.texts.lessons,
            self.teacher,
            schedule,
            check,
            lambda step: self.on_progress(what, 1, so_far),
        )
        edits.restore(best[2])
        return edits, best_steps[-1]


def _vector(
    run: _Run,
    edits: Edits,
    conditions: Conditions,
    prompts: Sequence[str],
    layers: tuple[int, ...],
) -> SteeringVector:
    ...
