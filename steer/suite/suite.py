"""Every method on a subject: chosen on the grid of `steer sweep`, measured on other texts."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steer.contrasts.heldout import HeldOut
from steer.contrasts.passages import Passage
from steer.distillation.lessons import Conditions
from steer.evaluation.choice import Budget, choose
from steer.evaluation.evaluate import Row as Measured
from steer.evaluation.evaluate import evaluate
from steer.evaluation.sweep import Bench, bench, run
from steer.evaluation.task import Task, Variant, variants
from steer.evaluation.written import Writing
from steer.intervals import Interval, plain
from steer.journal import Journal
from steer.measures.concepts import by_grammar
from steer.measures.grids import Plan, Row, default_coefficients
from steer.models.model import Model
from steer.sites import format_layers
from steer.steering.operation import Coefficient
from steer.steering.steers import Steer
from steer.suite.methods import vectors
from steer.suite.subjects import Subject, Texts
from steer.vectors.vector import SteeringVector

#: Of a vector that does not know how long activations are.
TIMES = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
SHOWN = ("concept", "recovery", "kl", "extra_nats", "distinct")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a suite does with each subject. samples: texts that each row writes, of max_tokens."""

    methods: tuple[str, ...]
    samples: int = 48
    max_tokens: int = 64
    seed: int = 0


def measured(
    model: Model,
    subject: Subject,
    *,
    texts: Texts,
    settings: Settings,
    rivals: Mapping[str, Mapping[str, SteeringVector]],
) -> list[dict[str, Any]]:
    """A row of plain JSON for each method and baseline. rivals: by subject, others' vectors.

    Raises:
        InputError: the condition changes nothing, or a text is too long.
        HookError: a steer was never applied.
    """
    made = {**vectors(model, subject, texts, settings.methods), **rivals.get(subject.name, {})}
    task = _task(subject, texts.chosen_by, settings, settings.seed)
    benched = bench(model, task, lambda what, n: None)
    steers = {
        name: _chosen(benched, vector, task.writing, Budget()) for name, vector in made.items()
    }
    there = {name: steer for name, steer in steers.items() if steer is not None}
    table = _table(list(there.items()), subject.condition)
    fresh = _task(subject, texts.measured_on, settings, settings.seed + 1)
    rows = evaluate(model, [one for _, one in table], fresh)
    by_name = {name: row for (name, _), row in zip(table, rows, strict=True)}
    told = [_told(subject, name, row, by_name, there.get(name)) for name, row in by_name.items()]
    # What has no cell within the budget does nothing there, and is shown to.
    nothing = [name for name, steer in steers.items() if steer is None]
    return told + [{"subject": subject.name, "method": name, "choice": None} for name in nothing]


def _task(subject: Subject, texts: Sequence[str], settings: Settings, seed: int) -> Task:
    writing = Writing(
        subject.prompts,
        Conditions(subject.condition, "", chat=False),
        samples=settings.samples,
        max_tokens=settings.max_tokens,
        seed=seed,
    )
    judge = by_grammar(subject.grammar) if subject.grammar else None
    passages = tuple(Passage("", text) for text in texts)
    return Task(HeldOut(texts=passages), writing, None, judge)


def _chosen(
    benched: Bench, vector: SteeringVector, writing: Writing, budget: Budget
) -> Steer | None:
    """The strongest cell within the budget; None where there is none."""
    plan = Plan(_rows(vector))
    with tempfile.TemporaryDirectory() as folder:
        *_, grid = run(benched, plan, Journal(Path(folder) / "journal"))
    found = choose(benched, plan, grid, budget, writing)
    if found is None or found.extra_nats.value > budget.nats:
        return None
    return plan.steer(*found.place)


def _rows(vector: SteeringVector) -> tuple[Row, ...]:
    """Each layer; what is meant for several at once, such as what was distilled, at all of them."""
    metadata = vector.metadata
    known = all(one.resid_norm for one in metadata.statistics)
    columns = default_coefficients(vector)
    if not known:
        columns = tuple(Coefficient(times) for times in TIMES)
    rows = [Row(vector, (layer,), columns, vector.name) for layer in metadata.layers]
    together = Row(vector, metadata.layers, columns, vector.name)
    if metadata.rank or metadata.method.name == "distill":
        return (together,)
    return tuple(rows) if known or len(rows) == 1 else (*rows, together)


def _table(steers: Sequence[tuple[str, Steer]], condition: str) -> list[tuple[str, Variant]]:
    """The rows: nothing, each method, random directions as long as the first, and the prompt."""
    every = variants([steer for _, steer in steers], condition=condition)
    vector_rows = [one for one in every if one.kind == "vector"]
    random_rows = [one for one in every if one.kind == "random"][:1]
    return [
        ("unsteered", every[0]),
        *zip((name for name, _ in steers), vector_rows, strict=True),
        *(("random direction", one) for one in random_rows),
        ("the prompt", every[-1]),
    ]


def _told(
    subject: Subject,
    name: str,
    row: Measured,
    rows: Mapping[str, Measured],
    steer: Steer | None,
) -> dict[str, Any]:
    return {
        "subject": subject.name,
        "method": name,
        "choice": None
        if steer is None
        else f"{steer.coefficient} at layer {format_layers(steer.layers)}",
        "of_prompt": plain(_of_prompt(row, rows)),
        **{key: plain(row.measures.get(key)) for key in SHOWN},
    }


def _of_prompt(row: Measured, rows: Mapping[str, Measured]) -> Interval | None:
    """How much of what the prompt does to the concept's rate a row does."""
    rates = [one.measures.get("concept") for one in (row, rows["unsteered"], rows["the prompt"])]
    own, base, told = rates
    if own is None or base is None or told is None or told.value == base.value:
        return None
    whole = told.value - base.value
    return Interval(*((one - base.value) / whole for one in (own.value, own.low, own.high)))
