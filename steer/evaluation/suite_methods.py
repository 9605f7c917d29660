"""Make the vectors of a subject: fit one recording by every method, and distill."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from steer.base.errors import UsageError
from steer.contrasts.contrasts import Contrasts
from steer.contrasts.frame import PLAIN
from steer.distillation.distill import distill
from steer.distillation.lessons import Conditions
from steer.distillation.settings import DistillSettings
from steer.evaluation.subjects import Subject
from steer.extraction import ReadSettings, plan, record_contrasts
from steer.fitting.fitting import FitSettings, fit_vectors
from steer.models.model import Model
from steer.vectors.positions import parse
from steer.vectors.provenance import FitMethod
from steer.vectors.sites import listed
from steer.vectors.vector import SteeringVector
from steer.workers import InProcess

#: The fitted vectors: their method and position.
FITTED: dict[str, tuple[FitMethod, str]] = {
    "mean_diff": ("mean_diff", "mean"),
    "mean_diff, last": ("mean_diff", "last"),
    "mean_diff, -8:": ("mean_diff", "-8:"),
    "pca": ("pca", "mean"),
    "probe": ("probe", "mean"),
    "lda": ("lda", "mean"),
}
DISTILL = "distill"
METHODS = (*FITTED, DISTILL)


def check(names: Sequence[str]) -> None:
    """Refuse unknown methods.

    Raises:
        UsageError: a name is not in `METHODS`.
    """
    for name in names:
        if name not in METHODS:
            raise UsageError(f"{name!r} is not a method", hint=f"there are {listed(METHODS)}")


def vectors(
    model: Model, subject: Subject, texts: Sequence[str], names: Sequence[str], max_tokens: int
) -> dict[str, SteeringVector]:
    """A vector by each method. max_tokens: the length of the texts that `distill` learns from.

    Raises:
        InputError: the condition changes nothing, or a text is too long.
    """
    by_method: dict[str, SteeringVector] = {}
    fitted = [name for name in names if name in FITTED]
    if fitted:
        by_method = _fitted(model, subject, texts, fitted)
    if DISTILL in names:
        settings = DistillSettings(DISTILL, max_tokens=max_tokens)
        conditions = Conditions(subject.condition, "", chat=False)
        by_method[DISTILL] = distill(model, conditions, subject.openings, settings)
    return by_method


def _fitted(
    model: Model, subject: Subject, texts: Sequence[str], names: Sequence[str]
) -> dict[str, SteeringVector]:
    positive, negative = (
        tuple(PLAIN.passage("a text", text, condition=condition) for text in texts)
        for condition in (subject.condition, "")
    )
    conditions = ((subject.condition,), ("",))
    contrasts = Contrasts("conditions", positive, negative, conditions=conditions)
    positions = tuple(dict.fromkeys(parse(FITTED[name][1]) for name in names))
    planned = plan(model, contrasts, ReadSettings(positions=positions))
    by_method = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        record_contrasts(InProcess(model), planned, Path(folder) / "activations") as recording,
    ):
        for name in names:
            method, position = FITTED[name]
            [by_method[name]] = fit_vectors(
                recording, FitSettings(name, method, positions=(position,))
            )
    return by_method
