"""An upper bound for the recovery of an edit at one layer, by activation patching.

At the positions that predict the response, the residual stream of a baseline text is replaced by
that of the same text under the condition. The rest of the effect comes from later layers that
attend to the condition itself (Zhang and Nanda 2023, arXiv 2309.16042).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steer.base.intervals import Interval
from steer.base.progress import Progress, silent
from steer.distillation.below import by_length
from steer.distillation.lessons import Lesson, log_probs
from steer.distillation.lowrank import by_lesson, divergences
from steer.distillation.recovery import recovery, token_kl
from steer.distillation.task import Task
from steer.hooks.hooks import SiteFunction, placed
from steer.vectors.sites import Site

#: The most held-out texts, since each layer takes a forward of all of them.
ENOUGH_TEXTS = 32


@torch.no_grad()
def ceiling(task: Task, layers: Sequence[int], progress: Progress = silent) -> dict[int, Interval]:
    """Recovery on held-out texts with the condition's own activations at one layer, by layer.

    Raises:
        HookError: a layer was never reached.
    """
    model, texts = task.model, task.texts.held_out[:ENOUGH_TEXTS]
    groups = by_length(texts)
    ordered = [lesson for group in groups for lesson in group]
    base = divergences(model, ordered, task.teacher, None)
    left: dict[int, list[float]] = {layer: [] for layer in layers}
    with progress("patching activations", len(groups) * len(layers)) as advance:
        for group in groups:
            seen: dict[int, Tensor] = {}

            def keep(layer: int, seen: dict[int, Tensor] = seen) -> SiteFunction:
                return lambda resid: seen.__setitem__(layer, resid)

            with placed(model, {Site(layer): keep(layer) for layer in layers}):
                teacher = log_probs(model, [(lesson.conditioned, lesson.n) for lesson in group])
            for layer in layers:
                with placed(model, {Site(layer): _patch(group, seen[layer])}):
                    student = log_probs(model, [(lesson.baseline, lesson.n) for lesson in group])
                sums = by_lesson(token_kl(teacher, student), group)
                left[layer] += [float(tokens.sum()) for tokens in sums]
                advance(1)
    return {layer: recovery(sums, base) for layer, sums in left.items()}


def _patch(lessons: Sequence[Lesson], conditioned: Tensor) -> SiteFunction:
    """Replace the activations that predict the last n tokens of each baseline row."""

    def patch(resid: Tensor) -> Tensor:
        patched = resid.clone()
        for row, lesson in enumerate(lessons):
            stop, there = len(lesson.baseline) - 1, len(lesson.conditioned) - 1
            patched[row, stop - lesson.n : stop] = conditioned[row, there - lesson.n : there]
        return patched

    return patch
