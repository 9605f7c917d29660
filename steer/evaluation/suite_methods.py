"""Make the vectors that a suite compares for one subject: fit one recording by every method, and
distill edits.

A suite names a method as `METHOD` or `METHOD, POSITION`: `mean_diff, last` reads the last token.
`distill` is the default method of `steer distill`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steer.contrasts.contrasts import Contrasts
from steer.contrasts.frame import PLAIN
from steer.distillation.distill import distill
from steer.distillation.lessons import Conditions
from steer.distillation.settings import DistillSettings
from steer.evaluation.subjects import Subject
from steer.extraction import ReadSettings, extract_each
from steer.fitting.fitting import FitSettings
from steer.methods.method import DistillMethod, FitMethod, Value
from steer.methods.registry import distill_methods, fit_methods, methods, parse_method
from steer.models.model import Model
from steer.vectors.positions import Position, parse
from steer.vectors.vector import SteeringVector
from steer.workers import LocalWorker

#: The default method of `steer distill` by the command's own name.
DISTILL = "distill"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One method of a suite. position: the tokens that a fit reads; None for a distillation."""

    label: str
    method: FitMethod | DistillMethod
    options: dict[str, Value]
    position: Position | None


def default_labels() -> tuple[str, ...]:
    """Every fitting method at each of its positions, and the distillations that are fast."""
    fits = [
        method.name if position == "mean" else f"{method.name}, {position}"
        for method in fit_methods()
        for position in method.positions
    ]
    edits = [method.name for method in distill_methods() if method.in_suite]
    usual = DistillSettings(DISTILL).method
    return (*fits, *(DISTILL if name == usual else name for name in edits))


def parse_candidate(label: str) -> Candidate:
    """The method that a label names.

    Raises:
        UsageError: no such method, option or position.
    """
    if label == DISTILL:
        usual = DistillSettings(DISTILL).method
        return Candidate(label, distill_methods().named(usual), {}, None)
    text, comma, position = label.rpartition(", ")
    if not comma:
        text, position = label, "mean"
    method, options = parse_method(text, methods())
    if isinstance(method, FitMethod):
        return Candidate(label, method, options, parse(position))
    assert isinstance(method, DistillMethod)
    return Candidate(label, method, options, None)


def vectors(
    model: Model, subject: Subject, texts: Sequence[str], labels: Sequence[str], max_tokens: int
) -> dict[str, SteeringVector]:
    """A vector by each method. max_tokens: the length of the texts that distillations learn from.

    Raises:
        InputError: the condition changes nothing, or a text is too long.
    """
    candidates = [parse_candidate(label) for label in labels]
    fits = [candidate for candidate in candidates if candidate.position is not None]
    by_label = _fit(model, subject, texts, fits) if fits else {}
    for candidate in candidates:
        method = candidate.method
        if isinstance(method, DistillMethod):
            settings = DistillSettings(
                candidate.label,
                method.name,
                scope="response" if method.response_only else "all",
                max_tokens=max_tokens,
                options=candidate.options,
            )
            conditions = Conditions(subject.condition, "", chat=False)
            by_label[candidate.label] = distill(model, conditions, subject.openings, settings)
    return {label: by_label[label] for label in labels}


def _fit(
    model: Model, subject: Subject, texts: Sequence[str], candidates: Sequence[Candidate]
) -> dict[str, SteeringVector]:
    """One recording of the texts with and without the condition, fitted by each method."""
    conditioned, plain = (
        tuple(PLAIN.passage("a text", text, condition=condition) for text in texts)
        for condition in (subject.condition, "")
    )
    contrasts = Contrasts(
        "conditions", conditioned, plain, conditions=((subject.condition,), ("",))
    )
    positions = tuple(dict.fromkeys(candidate.position for candidate in candidates))
    fits = [
        FitSettings(
            candidate.label,
            candidate.method.name,
            positions=(str(candidate.position),),
            options=candidate.options,
        )
        for candidate in candidates
    ]
    read = ReadSettings(positions=positions)
    extracted = extract_each(LocalWorker(model), contrasts, read, fits)
    return {extraction.best.name: extraction.best for extraction in extracted}
