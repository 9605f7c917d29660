"""An edit by gradient descent, which begins at the ridge regression."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steer.methods.method import DistillMethod, FittedEdit

if TYPE_CHECKING:
    from steer.base.progress import Progress
    from steer.distillation.pairs import Preference
    from steer.distillation.settings import DistillSettings
    from steer.distillation.task import Task


def compute(task: Task, settings: DistillSettings, progress: Progress) -> FittedEdit:
    """Begin at the regression, and descend the divergence from the conditioned model."""
    from steer.distillation.descent import descended
    from steer.distillation.regress import RIDGES, regress
    from steer.distillation.settings import CHAT_RANK, RANK

    # A low rank: more would fit the texts that the descent learns from. One ridge: the descent
    # matters more.
    rank = CHAT_RANK if task.texts.conditions.chat else RANK
    edits, ridge = regress(task, settings, progress, ranks=(rank,), ridges=RIDGES[:1])
    task.prepare(edits, progress)
    _, best_step = descended(task, edits, settings.schedule, "descending", progress)
    return FittedEdit(edits, ridge=ridge, best_step=best_step)


def pairs(task: Preference, settings: DistillSettings, progress: Progress) -> FittedEdit:
    """Descend from nothing, at the layers of the settings or at the one that comes furthest in a
    short run."""
    from steer.distillation.search import search

    edits, best_step = search(task, settings, progress)
    return FittedEdit(edits, best_step=best_step)


METHOD = DistillMethod(
    name="descent",
    title="gradient descent",
    help="gradient descent from there; stronger and slower",
    order=12,
    compute=compute,
    pairs=pairs,
    descends=True,
    usual="text",
    in_suite=True,
)
