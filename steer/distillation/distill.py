"""Distil a prompt condition into an edit of the residual stream with the same effect.

Context distillation (Askell et al. 2021, arXiv 2112.00861) into a low-rank edit of representations
(ReFT, Wu et al. 2024, arXiv 2404.03592). The model is frozen; the edit minimises, per token,

    KL(p(. | condition, prompt, text) || p_edited(. | baseline, prompt, text))

over texts that the conditioned model has generated. `Edits` has the form, `recovery` the measure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from steer.base.errors import InputError, UsageError
from steer.base.intervals import Interval, mean
from steer.base.journal import Journal
from steer.base.progress import Advance, Progress, silent
from steer.distillation.checkpoints import Checkpoints
from steer.distillation.distilled import as_vector, with_evidence
from steer.distillation.lessons import Conditions, nats_per_token, rewritten
from steer.distillation.lowrank import divergences
from steer.distillation.pairs import Preference
from steer.distillation.quick import quick
from steer.distillation.recovery import recovery
from steer.distillation.settings import DistillSettings
from steer.distillation.task import Task
from steer.distillation.texts import write
from steer.distillation.unrelated import UnrelatedTexts
from steer.methods.method import FittedEdit
from steer.methods.registry import distill_methods
from steer.models.model import Model
from steer.steering.operation import Coefficient
from steer.steering.steers import Steer, usual_scope
from steer.vectors.sites import Site
from steer.vectors.vector import SteeringVector


def distill(
    model: Model,
    conditions: Conditions,
    prompts: Sequence[str],
    settings: DistillSettings,
    progress: Progress = silent,
    kept: Journal | None = None,
) -> SteeringVector:
    """The edit with the best recovery of the condition's effect, with its recovery and cost.

    It calls `write` and then `fit`, on `quick(model)`; several calls of `fit` can share texts.

    Raises:
        InputError, SiteError, UsageError: as in those two.
    """
    check(model, settings)
    model = quick(model)
    texts = write(model, conditions, prompts, settings, progress, kept)
    checkpoints = Checkpoints.of(kept)
    task = Task.of(model, texts, progress=progress, checkpoints=checkpoints)
    vector = fit(task, settings, progress)
    checkpoints.finish()
    return vector


def check(model: Model, settings: DistillSettings) -> None:
    """Check the settings before any text is generated.

    Raises:
        SiteError: a layer that the model does not have.
        UsageError: a rank above the model's width.
    """
    if (settings.rank or 0) > model.identity.d_model:
        raise UsageError(f"--rank is at most {model.identity.d_model}, the width of the model")
    for layer in settings.layers or ():
        model.hooks.place(Site(layer))


def fit(
    task: Task,
    settings: DistillSettings,
    progress: Progress = silent,
) -> SteeringVector:
    """Fit an edit by the method of the settings, and measure it on held-out texts.

    Raises:
        InputError: no edit recovers any of the effect.
        SiteError, UsageError: as in `check`.
    """
    model, texts = task.model, task.texts
    check(model, settings)
    method = distill_methods().named(settings.method)
    fitted = method.run(method.compute, task, settings, progress)
    edits = fitted.edits
    with progress("measuring on held-out texts", 6) as advance:
        base = divergences(model, texts.held_out, task.teacher, None)
        advance(1)
        recovered = recovery(divergences(model, texts.held_out, task.teacher, edits), base)
        advance(1)
        _check_found(recovered)
        return measured_vector(task, settings, fitted, recovered, advance)


def measured_vector(
    task: Task,
    settings: DistillSettings,
    fitted: FittedEdit,
    recovered: Interval,
    advance: Advance,
) -> SteeringVector:
    """The vector of an edit, with its recovery and the cost of its texts."""
    edits = fitted.edits
    model, texts = task.model, task.texts
    conditioned = [(lesson.conditioned, lesson.n) for lesson in texts.held_out]
    baseline = [(lesson.baseline, lesson.n) for lesson in texts.held_out]
    vector = as_vector(
        model, settings, edits, (conditioned, baseline), texts.contrast, chat=texts.conditions.chat
    )
    steer = Steer(vector, Coefficient(1.0), vector.metadata.layers, usual_scope(vector.metadata))
    advance(1)
    own = task.own_nats((), settings.seed)
    own_texts = task.plain(settings.seed)
    plain_base = divergences(model, own_texts, task.teacher, None)
    plain = recovery(divergences(model, own_texts, task.teacher, edits), plain_base)
    advance(1)
    extra_nats = task.own_nats((steer,), settings.seed) - own
    advance(1)
    unrelated = UnrelatedTexts.of(model, texts.conditions)
    side_effects = unrelated.beside_condition(lambda: unrelated.of_edits(edits))
    advance(1)
    return with_evidence(
        vector,
        settings,
        fitted,
        recovered,
        held_out=len(baseline),
        extra_nats=extra_nats,
        plain=plain,
        unrelated=side_effects,
        condition_extra_nats=nats_per_token(model, baseline) - own,
        evidence=f"recovery {recovered} on {len(baseline)} held-out texts",
    )


def fit_pairs(
    task: Preference,
    settings: DistillSettings,
    progress: Progress = silent,
) -> SteeringVector:
    """Fit an edit that makes the positive completions of pairs likelier.

    Raises:
        InputError: no such edit was found.
        UsageError: the method does not learn from pairs, or as in `check`.
        SiteError: as in `check`.
    """
    model, held_out = task.model, task.held_out
    check(model, settings)
    method = distill_methods().named(settings.method)
    fitted = method.run(method.of_pairs(), task, settings, progress)
    edits = fitted.edits
    losses = task.losses(edits, held_out)
    recovered = recovery(losses, [math.log(2)] * len(losses))
    _check_found(recovered)
    rows = [
        [(getattr(pair, side).baseline, getattr(pair, side).n) for pair in held_out]
        for side in ("positive", "negative")
    ]
    before, after = (np.array(task.log_ratios(held_out, state)) for state in (None, edits))
    vector = as_vector(model, settings, edits, (rows[0], rows[1]), task.contrast, chat=task.chat)
    task.checkpoints.finish()
    steer = Steer(vector, Coefficient(1.0), vector.metadata.layers, usual_scope(vector.metadata))
    starts = [pair.positive for pair in held_out]
    own, steered = (
        nats_per_token(model, rewritten(model, starts, steers, seed=settings.seed))
        for steers in ((), (steer,))
    )
    return with_evidence(
        vector,
        settings,
        fitted,
        recovered,
        held_out=len(held_out),
        objective="pairs",
        extra_nats=steered - own,
        condition_extra_nats=nats_per_token(model, rows[0]) - own,
        evidence=f"log-ratio {mean(after - before)} nats higher on {len(held_out)} held-out pairs,"
        f" positive likelier in {np.mean(after > 0):.0%}, unsteered {np.mean(before > 0):.0%}",
    )


def _check_found(recovered: Interval) -> None:
    if recovered.value <= 0:
        raise InputError(
            "no edit was found that does better than the unsteered model",
            hint="try more --samples and --steps, a higher --rank or --layers=all",
        )
