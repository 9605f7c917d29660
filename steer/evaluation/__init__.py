"""Measure effect and cost: of some vectors (`evaluate`), of every layer and coefficient (`sweep`),
of every method (`suite`). They are imported lazily, since they need torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steer.evaluation.evaluations import Evaluation as Evaluation
    from steer.evaluation.evaluations import evaluate as evaluate
    from steer.evaluation.suites import SuiteResult as SuiteResult
    from steer.evaluation.suites import suite as suite
    from steer.evaluation.sweep_grid import grid_of as grid_of
    from steer.evaluation.sweep_result import SweepResult as SweepResult
    from steer.evaluation.sweeps import sweep as sweep

_HOMES = {
    "Evaluation": "evaluations",
    "evaluate": "evaluations",
    "SuiteResult": "suites",
    "suite": "suites",
    "SweepResult": "sweep_result",
    "grid_of": "sweep_grid",
    "sweep": "sweeps",
}
__all__ = [
    "Evaluation", "SuiteResult", "SweepResult", "evaluate", "grid_of", "suite", "sweep",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
