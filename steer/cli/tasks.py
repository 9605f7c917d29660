"""`steer eval --lm-eval`: tasks of lm-evaluation-harness beside what steer measures itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from steer.cli import output

if TYPE_CHECKING:
    from steer.evaluation.evaluate import Row
    from steer.evaluation.task import Task
    from steer.models.model import Model

#: Rows whose figures are worth the time: tasks take longer than all else.
KINDS = ("unsteered", "vector", "prompt")


def load(names: Sequence[str]) -> Any:
    """The tasks, or None if none are asked for.

    Raises:
        UsageError: the harness is not there.
        InputError: a task cannot be loaded.
    """
    from importlib.util import find_spec

    from steer.base.errors import UsageError

    if not names:
        return None
    if find_spec("lm_eval") is None:
        raise UsageError(
            "--lm-eval needs lm-evaluation-harness", hint="pip install 'steer-activations[lm-eval]'"
        )
    with output.status(f"loading {', '.join(names)}"):
        from steer.evaluation import harness

        return harness.load(names)


def run(model: Model, rows: Sequence[Row], task: Task, loaded: Any, limit: int | None) -> None:
    """Fill in the rows' tasks."""
    from steer.evaluation import harness

    for row in rows:
        if row.variant.kind in KINDS:
            with output.status(f"lm-evaluation-harness: {row.variant.label}"):
                [cell] = row.variant.cells
                row.tasks.update(harness.run(model, loaded, cell, task.writing.conditions, limit))
