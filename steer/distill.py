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

import msgspec
import numpy as np

from steer import fit
from steer.descent import CANDIDATES, SEARCH_STEPS, Schedule, Task, candidates, descend
from steer.errors import InputError, UsageError
from steer.extract import spread
from steer.fit import rounded
from steer.intervals import Interval
from steer.lessons import Conditions, Lesson, nats_per_token, rewritten, write_lessons
from steer.lowrank import Edits, Teacher, divergences
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
from steer.reading import Reading
from steer.record import record
from steer.recovery import recovery
from steer.sites import Site
from steer.spec import Coefficient, Scope
from steer.steers import Steer
from steer.vector import SteeringVector

#: Prompts from which on some are held out; with fewer, other texts after the same ones are.
ENOUGH_PROMPTS = 10
#: Texts that are enough to know the mean length of an activation.
ENOUGH_TEXTS = 64

#: Gets what is being done, how many units of `n_units` were just done, and R so far, once known.
Progress = Callable[[str, int, float | None], None]


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
    scales = _scales(model, texts.validation)
    edits, best_step = _fit(task, scales, settings, on_progress)
    base = divergences(model, texts.held_out, teacher, None)
    found = recovery(divergences(model, texts.held_out, teacher, edits), base)
    if best_step == 0 or found.value <= 0:
        raise InputError(
            "no edit was found that comes nearer to the condition than the unsteered model",
            hint="try more --samples and --steps, a higher --rank or --layers all",
        )
    digest = hashlib.sha256(
        json.dumps(
            [conditions.condition, conditions.baseline, conditions.chat, list(prompts)]
        ).encode()
    )
    contrast = ContrastSummary(
        kind="condition",
        n=len(texts.lessons),
        sha256=digest.hexdigest(),
        positive=conditions.condition,
        negative=conditions.baseline,
    )
    vector = _vector(model, settings, edits, texts.held_out, contrast)
    return _with_evidence(model, settings, vector, texts, found, best_step)


def _fit(
    task: Task, scales: dict[Site, float], settings: DistillSettings, on_progress: Progress
) -> tuple[Edits, int]:
    """Edits at the layers of the settings, or at the one at which a short run comes furthest."""
    response = settings.scope == "response"

    def run(layers: Sequence[int], steps: int, what: str) -> tuple[Edits, float, int]:
        here = {Site(layer): scales[Site(layer)] for layer in layers}
        edits = Edits(task.model, here, settings.rank, settings.seed, response=response)
        best, best_step = descend(
            task,
            edits,
            settings.schedule(steps),
            lambda recovered: on_progress(what, 1, recovered),
        )
        return edits, best, best_step

    every = [site.layer for site in scales]
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


def _scales(model: Model, lessons: Sequence[Lesson]) -> dict[Site, float]:
    """Root mean square of an activation's entries at each layer, over the texts' own tokens."""
    sites = [Site(layer) for layer in model.hooks.layers("resid_post")]
    _, norms = _read(model, [(one.baseline, one.n) for one in lessons[:ENOUGH_TEXTS]], sites)
    width = model.identity.d_model
    return {site: float(norm) / width**0.5 for site, norm in zip(sites, norms.mean(0), strict=True)}


def _read(
    model: Model, rows: Sequence[tuple[tuple[int, ...], int]], sites: Sequence[Site]
) -> tuple[fit.Array, fit.Array]:
    """Mean activations [row, site, d_model] and mean lengths [row, site] of the last n tokens."""
    readings = [Reading(ids, len(ids) - n, len(ids)) for ids, n in rows]
    means = np.zeros((len(rows), len(sites), model.identity.d_model))
    norms = np.zeros((len(rows), len(sites)))
    for batch in record(model, readings, sites):
        means[batch.indices], norms[batch.indices] = batch.activations, batch.norms
    return means, norms


def _vector(
    model: Model,
    settings: DistillSettings,
    edits: Edits,
    lessons: Sequence[Lesson],
    contrast: ContrastSummary,
) -> SteeringVector:
    """The edits as a file has them, but for the evidence."""
    sites = edits.sites
    positive, _ = _read(model, [(one.conditioned, one.n) for one in lessons], sites)
    negative, norms = _read(model, [(one.baseline, one.n) for one in lessons], sites)
    stacked = [np.stack(parts) for parts in zip(*map(edits.arrays, sites), strict=True)]
    statistics = []
    for index, site in enumerate(sites):
        direction, *factors = edits.arrays(site)
        added = direction[None]
        if factors:
            down, up = factors
            added = direction + negative[:, index] @ down.T @ up.T
        unit = fit.unit(direction[None].astype(np.float64))[0]
        statistics.append(
            LayerStatistics(
                layer=site.layer,
                norm=rounded(float(np.linalg.norm(added, axis=1).mean())),
                resid_norm=rounded(float(norms[:, index].mean())),
                positive=spread(positive[:, index] @ unit),
                negative=spread(negative[:, index] @ unit),
            )
        )
    layers = tuple(site.layer for site in sites)
    metadata = Metadata(
        name=settings.name,
        description=settings.description,
        license=settings.license,
        model=model.identity,
        site="resid_post",
        layers=layers,
        rank=settings.rank,
        method=Method(name="mean_diff"),
        read=Read(positions=settings.scope),
        contrast=contrast,
        statistics=tuple(statistics),
        recommended=Recommended(layers=layers, coefficient=1.0, evidence=""),
    )
    return SteeringVector(metadata, *stacked)


def _with_evidence(
    model: Model,
    settings: DistillSettings,
    vector: SteeringVector,
    texts: _Texts,
    found: Interval,
    best_step: int,
) -> SteeringVector:
    """The vector with R and what its own texts cost under the unsteered model."""
    layers, scope = vector.metadata.layers, Scope(settings.scope)
    steer = Steer(vector, Coefficient(1.0), layers, scope)
    lessons = texts.held_out
    own, steered = (
        nats_per_token(model, rewritten(model, lessons, steers, seed=settings.seed))
        for steers in ([], [steer])
    )
    conditioned = nats_per_token(model, [(one.baseline, one.n) for one in lessons])
    told = Distillation(
        samples=len(texts.lessons),
        held_out=len(lessons),
        max_tokens=settings.max_tokens,
        batch_size=settings.batch_size,
        steps=settings.steps,
        best_step=best_step,
        learning_rate=settings.learning_rate,
        seed=settings.seed,
        recovery=rounded(found.value),
        interval=(rounded(found.low), rounded(found.high)),
        extra_nats=rounded(steered - own),
        condition_extra_nats=rounded(conditioned - own),
    )
    evidence = f"recovery {found} on {len(lessons)} held-out texts"
    metadata = msgspec.structs.replace(
        vector.metadata,
        method=Method(name="distill", distillation=told),
        recommended=Recommended(layers=layers, coefficient=1.0, evidence=evidence),
    )
    return replace(vector, metadata=metadata)
