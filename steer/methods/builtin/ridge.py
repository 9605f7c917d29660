"""An edit by ridge regression: closed form, two forward passes, no gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steer.methods.method import DistillMethod, FittedEdit

if TYPE_CHECKING:
    from steer.base.progress import Progress
    from steer.distillation.settings import DistillSettings
    from steer.distillation.task import Task


def compute(task: Task, settings: DistillSettings, progress: Progress) -> FittedEdit:
    """Regress what the condition adds to the activations on the activations without it, layer by
    layer; the formulas are in `steer.distillation.ridge`."""
    from steer.distillation.regress import RANKS, regress

    edits, ridge = regress(task, settings, progress, ranks=RANKS)
    return FittedEdit(edits, ridge=ridge)


METHOD = DistillMethod(
    name="ridge",
    title="ridge regression",
    help="a regression in closed form; minutes",
    order=11,
    compute=compute,
    response_only=True,
    usual="chat",
)
