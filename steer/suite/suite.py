"""Every method on a subject: chosen on the grid of `steer sweep`, measured on other texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from steer.base.intervals import Interval, plain
from steer.base.journal import Journal
from steer.contrasts.heldout import HeldOut
from steer.distillation.distilled import read_means
from steer.distillation.lessons import Conditions
from steer.evaluation.choice import Budget, decide, looking
from steer.evaluation.evaluate import Row as Measured
from steer.evaluation.evaluate import evaluate
from steer.evaluation.sweep import Bench, bench, run
from steer.evaluation.task import Task, Variant, variants
from steer.evaluation.written import Writing, Written
from steer.fitting.fitting import rounded
from steer.measures.concepts import by_grammar
from steer.measures.grids import Grid, Plan, Row, default_coefficients, finer, joined
from steer.models.model import Model
from steer.steering.steers import Steer
from steer.suite.methods import vectors
from steer.suite.subjects import Subject
from steer.vectors.sites import Site, format_layers
from steer.vectors.vector import SteeringVector

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
    texts: Sequence[str],
    settings: Settings,
    rivals: Mapping[str, Mapping[str, SteeringVector]],
) -> list[dict[str, Any]]:
    """A row of plain JSON for each method and baseline.

    texts: what vectors are made from. rivals: by subject, others' vectors.

    Raises:
        InputError: the condition changes nothing, or a text is too long.
        HookError: a steer was never applied.
    """
    made = vectors(model, subject, texts, settings.methods, settings.max_tokens)
    task = _task(subject, settings, settings.seed)
    benched = bench(model, task, lambda what, n: None)
    made |= {
        name: with_lengths(model, one, benched.own)
        for name, one in rivals.get(subject.name, {}).items()
    }
    steers = {
        name: _chosen(benched, vector, task.writing, Budget()) for name, vector in made.items()
    }
    there = {name: steer for name, steer in steers.items() if steer is not None}
    table = _table(list(there.items()), subject.condition)
    fresh = _task(subject, settings, settings.seed + 1)
    rows = evaluate(model, [one for _, one in table], fresh)
    by_name = {name: row for (name, _), row in zip(table, rows, strict=True)}
    told = [_told(subject, name, row, by_name, there.get(name)) for name, row in by_name.items()]
    # What has no cell within the budget does nothing there, and is shown to.
    nothing = [name for name, steer in steers.items() if steer is None]
    return told + [{"subject": subject.name, "method": name, "choice": None} for name in nothing]


def _task(subject: Subject, settings: Settings, seed: int) -> Task:
    writing = Writing(
        subject.prompts,
        Conditions(subject.condition, "", chat=False),
        samples=settings.samples,
        max_tokens=settings.max_tokens,
        seed=seed,
    )
    judge = by_grammar(subject.grammar) if subject.grammar else None
    return Task(HeldOut(), writing, None, judge)


def with_lengths(model: Model, vector: SteeringVector, texts: Sequence[Written]) -> SteeringVector:
    """The vector with how long activations are in these texts, where its file does not say it, as
    others' do not."""
    metadata = vector.metadata
    if all(one.resid_norm for one in metadata.statistics):
        return vector
    sites = [Site(layer, metadata.site) for layer in metadata.layers]
    _, lengths = read_means(model, [(one.ids, one.n) for one in texts], sites)
    statistics = tuple(
        msgspec.structs.replace(one, resid_norm=rounded(float(length)))
        for one, length in zip(metadata.statistics, lengths.mean(0), strict=True)
    )
    told = msgspec.structs.replace(metadata, statistics=statistics, sha256="")
    return replace(vector, metadata=told)


def _chosen(
    benched: Bench, vector: SteeringVector, writing: Writing, budget: Budget
) -> Steer | None:
    """The strongest cell within the budget; None where there is none."""
    plan = Plan(_rows(vector))
    grid = _scored(benched, plan, budget)
    more = finer(plan, grid, budget.kl)
    if more is not None:
        plan, grid = Plan(plan.rows + more.rows), joined(grid, _scored(benched, more, budget))
    _, found = decide(benched, plan, grid, budget, looking(benched, plan, writing))
    if found is None or found.extra_nats.value > budget.nats:
        return None
    return plan.steer(*found.place)


def _scored(benched: Bench, plan: Plan, budget: Budget) -> Grid:
    *_, grid = run(benched, plan, Journal(None), max_kl=budget.kl)
    return grid


def _rows(vector: SteeringVector) -> tuple[Row, ...]:
    """Each layer; what may be meant for several at once at all of them, too or alone."""
    metadata = vector.metadata
    columns = default_coefficients(vector)
    layers = tuple(one.layer for one in metadata.statistics if one.norm)
    alone = tuple(Row(vector, (layer,), columns, vector.name) for layer in layers)
    together = Row(vector, layers, columns, vector.name)
    if metadata.rank or metadata.method.name == "distill":
        return (together,)
    if metadata.method.name == "import" and len(alone) > 1:
        return (*alone, together)
    return alone


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
        "choice": None if steer is None else f"{steer.coefficient}@{format_layers(steer.layers)}",
        "of_prompt": plain(_of_prompt(row, rows)),
        **{key: plain(row.measures.get(key)) for key in SHOWN},
    }


def _of_prompt(row: Measured, rows: Mapping[str, Measured]) -> Interval | None:
    """The concept's rate where unsteered is 0 and the prompt 1; None where it does not raise it."""
    rates = [one.measures.get("concept") for one in (row, rows["unsteered"], rows["the prompt"])]
    own, base, told = rates
    if own is None or base is None or told is None or not told.value > base.value:
        return None
    whole = told.value - base.value
    return Interval(*((one - base.value) / whole for one in (own.value, own.low, own.high)))
