"""Compare all methods on conditions with a known truth, beside the condition as a prompt.

For each subject (a condition) every method makes a vector. A sweep chooses its layer and
coefficient on texts that the model generates under the condition; the vector is then measured on
other texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import msgspec
import numpy as np

from steer import resuming
from steer.base.durations import seconds_of
from steer.base.errors import UsageError
from steer.base.intervals import Interval, plain
from steer.base.progress import Progress, silent
from steer.contrasts.heldout import HeldOut
from steer.contrasts.prompts import OPENINGS
from steer.distillation.distilled import read_means
from steer.distillation.lessons import Conditions
from steer.evaluation import processes
from steer.evaluation.bench import Bench, bench
from steer.evaluation.choice import Budget, cell_trial, decide
from steer.evaluation.data import Warn, loaded, warn_of_readers
from steer.evaluation.evaluations import EvaluationRow, frame, measure_rows
from steer.evaluation.search import GridSearch
from steer.evaluation.subjects import (
    Subject,
    condition_subjects,
    distinct_texts,
    pocket_subjects,
    stories,
)
from steer.evaluation.suite_methods import default_labels, parse_candidate, vectors
from steer.evaluation.task import Task, Variant, variants
from steer.evaluation.written import GeneratedText, TextSettings
from steer.fitting.fitting import rounded
from steer.formats.reading import bind
from steer.generate.pace import Size, announce, largest_size, left_out, pace, sizes
from steer.measures.concepts import by_grammar
from steer.measures.grids import SHARES, Grid, GridRow, default_coefficients
from steer.measures.measure import Measure
from steer.measures.registry import measures
from steer.measures.tables import NOTHING, in_console, in_notebook, table
from steer.models.model import Model
from steer.models.source import ModelSource
from steer.steering.steers import Steer, check_fits
from steer.vectors.sites import Site, format_layers
from steer.vectors.vector import SteeringVector

Rivals = Mapping[str, Mapping[str, SteeringVector]]


#: How often the texts of a row are generated, for the estimate of a suite's duration.
GENERATIONS = 6


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a suite. samples: generated texts per row, of max_tokens. guidance: strengths
    at which conditions guide the model live."""

    methods: tuple[str, ...]
    samples: int = 48
    max_tokens: int = 64
    seed: int = 0
    guidance: tuple[float, ...] = ()


@dataclass(frozen=True)
class SuiteResult:
    """The result of `suite`: a row for each subject and method, and each method over all subjects.

    rows: plain JSON, with the intervals of every measure by its name. summary: as `summary`.
    described: the model, its device and dtype. command: the command that reproduces it, if known.
    finish: call it once the result is stored; it removes the journal.
    """

    model: str
    described: str
    rows: tuple[dict[str, Any], ...]
    command: str = ""
    finish: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)

    @property
    def summary(self) -> list[dict[str, Any]]:
        """Each method over all subjects: medians and ranges (`summary`)."""
        return summary(self.rows)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The measures that some row has."""
        return tuple(
            measure
            for name, measure in measures().items()
            if any(row.get(name) for row in self.rows)
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON, as `steer suite --json` prints it."""
        return {
            "command": self.command,
            "model": self.model,
            "rows": list(self.rows),
            "summary": self.summary,
        }

    def to_pandas(self) -> Any:
        """A pandas frame: a line for each subject, method and measure, with value, low, high, unit.

        Raises:
            UsageError: pandas is not installed.
        """
        return frame(
            {
                "subject": row["subject"],
                "method": row["method"],
                "choice": row["choice"],
                "measure": measure.name,
                "unit": measure.unit,
                **row[measure.name],
            }
            for row in self.rows
            for measure in self.measures
            if row.get(measure.name)
        )

    def plot(self) -> Any:
        """A matplotlib figure: each method over all subjects, a panel for each measure.

        Raises:
            UsageError: matplotlib is not installed.
        """
        from steer.measures import pictures

        rows = [
            (
                row["method"],
                {m.name: Interval(**row[m.name]) for m in self.measures if row[m.name]},
            )
            for row in self.summary
        ]
        return pictures.bars(rows, self.measures)

    def view(self, width: int) -> Iterator[Any]:
        """A table for each subject, and then each method over all of them."""
        shown = self.measures
        heads = [measure.title for measure in shown]
        subjects = list(dict.fromkeys(row["subject"] for row in self.rows))
        for subject in subjects:
            own = [row for row in self.rows if row["subject"] == subject]
            cells = [
                [row["method"], *(_cell(row, m) for m in shown), _choice_text(row)] for row in own
            ]
            yield table([subject, *heads, "at"], cells)
            yield ""
        if len(subjects) > 1:
            cells = [
                [row["method"], *(_cell(row, measure) for measure in shown), _count_text(row)]
                for row in self.summary
            ]
            yield table(["all: median [range]", *heads, "of"], cells)
            yield ""
        for measure in shown:
            yield f"{measure.title}: {measure.meaning}"
        yield f"{self.described} · in brackets: 95 % intervals, or the range over all subjects"
        if self.command:
            yield f"again: {self.command}"

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        yield from in_console(self.view(options.max_width))

    def _repr_html_(self) -> str:
        return in_notebook(self)


def suite(
    model: Any,
    conditions: Sequence[str] = (),
    texts: Sequence[str] = (),
    *,
    tags: Sequence[str] = (),
    prompts: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    rivals: Rivals | None = None,
    guidance: Sequence[float] = (),
    samples: int = 48,
    max_tokens: int = 64,
    seed: int = 0,
    jobs: int = 1,
    budget: str | float | None = None,
    source: ModelSource | None = None,
    command: str = "",
    progress: Progress = silent,
    note: Warn = lambda text: None,
) -> SuiteResult:
    """Compare methods on conditions, beside the condition as a prompt.

    model: a model, or a function that loads it, which is called after everything else is checked.
    conditions: prompts. texts: neutral texts to make vectors from. Without both, the tags and
    stories of the pocket grammar are used. methods: such as `mean_diff, last` or `probe:penalty=2`
    (`steer.evaluation.suite_methods`); None means all. rivals: vectors from elsewhere, by subject
    and name. guidance: strengths at which each condition guides the model live, a row each. jobs:
    the number of processes, each of which loads the model from `source`. budget: a time to fit
    into, such as `5m`, by an estimate; what that leaves out is noted. An interrupted suite is
    resumed. progress and note are callbacks; nothing is printed.

    Raises:
        UsageError: an unknown tag or method, or too few texts.
        InputError: a condition changes nothing, or a text is too long.
        ModelError: a rival belongs to another model.
        HookError: a steer was never applied.
    """
    if conditions and tags:
        raise UsageError("--tags and --condition exclude each other; --tags are for pocket")
    if (texts or prompts) and not conditions:
        raise UsageError("--texts and --prompts go with --condition")
    if conditions and not texts:
        raise UsageError("a --condition needs --texts", hint="pass neutral texts, unrelated to it")
    labels = default_labels() if methods is None else tuple(methods)
    for label in labels:
        parse_candidate(label)
    if conditions:
        subjects, source_texts = (
            condition_subjects(conditions, prompts or OPENINGS),
            distinct_texts(texts),
        )
    else:
        subjects, source_texts = pocket_subjects(tags), stories()
    names = {subject.name for subject in subjects}
    for name in rivals or {}:
        if name not in names:
            raise UsageError(f"{name!r} names no tag here", hint="write joyful=happy.gguf")
    settings = Settings(labels, samples, max_tokens, seed, tuple(guidance))
    seconds = None if budget is None else seconds_of(budget)
    every_rival = [vector for own in (rivals or {}).values() for vector in own.values()]
    warn_of_readers(_task(subjects[0], settings, seed), note, vectors=every_rival)
    model = loaded(model)
    if seconds is not None:
        n_rows = len(subjects) * len(labels) / max(1, min(jobs, len(subjects)))
        settings = _fit_to_time(seconds, model, n_rows, settings, note)
    bound = {
        subject.name: {
            name: _bind(vector, model)
            for name, vector in (rivals or {}).get(subject.name, {}).items()
        }
        for subject in subjects
    }
    kept = resuming.journal(model, "suites", source_texts, asdict(settings))
    keys = {
        subject.name: str([asdict(subject), {name: resuming.vector_key(vector)[-1]
                                             for name, vector in bound[subject.name].items()}])
        for subject in subjects
    }  # fmt: skip
    rows = {subject.name: kept.get(keys[subject.name]) for subject in subjects}
    waiting = [subject for subject in subjects if rows[subject.name] is None]
    if len(waiting) < len(subjects):
        note(f"{len(subjects) - len(waiting)} of {len(subjects)} were done before")
    job = partial(measure_subject, texts=source_texts, settings=settings, rivals=bound)
    with progress("measuring", len(waiting)) as advance:
        for subject, results in _measure_each(model, source, waiting, job, min(jobs, len(waiting))):
            kept.put(keys[subject.name], results)
            rows[subject.name] = results
            advance(1, subject.name)
    return SuiteResult(
        model=model.identity.id,
        described=model.describe(),
        rows=tuple(row for subject in subjects for row in rows[subject.name]),
        command=command,
        finish=kept.finish,
    )


def _fit_to_time(
    seconds: float, model: Model, n_rows: float, settings: Settings, note: Warn
) -> Settings:
    """As many and as long texts as fit into a time, by an estimate. n_rows: rows of the table that
    a process measures."""
    full = Size(settings.samples, settings.samples, settings.max_tokens)
    speed = pace(model)
    cells = model.n_layers * len(SHARES) / 3  # some are dropped after a part of the texts

    def predicted(size: Size) -> float:
        tokens = size.samples * (30 + size.max_tokens)
        read = 2 * cells * tokens / speed.read
        return n_rows * (read + GENERATIONS * size.samples * size.max_tokens / speed.written)

    size, needed = largest_size(sizes(full), predicted, seconds)
    missing = left_out(replace(full, items=size.items), size)
    note(announce(seconds, needed, missing, predicted(full)))
    return replace(settings, samples=size.samples, max_tokens=size.max_tokens)


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each method's measures over all subjects, as plain JSON, in the order of the rows.

    n: the number of subjects. failed: those without a cell within the budget, whose measures count
    as 0.
    """
    every = list(measures())
    methods = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        failed = sum(not any(row.get(name) for name in every) for row in own)
        spreads = {name: _spread(own, name) for name in every}
        methods.append({"method": method, "n": len(own), "failed": failed, **spreads})
    return methods


def _spread(rows: Sequence[dict[str, Any]], name: str) -> dict[str, float] | None:
    """Median, minimum and maximum of a measure over the subjects; None if no row has it."""
    intervals = [row.get(name) for row in rows]
    if not any(intervals):
        return None
    values = [0.0 if interval is None else float(interval["value"]) for interval in intervals]
    return {"value": float(np.median(values)), "low": min(values), "high": max(values)}


def _cell(row: dict[str, Any], measure: Measure) -> str:
    interval = row.get(measure.name)
    return NOTHING if interval is None else measure.shown(Interval(**interval))


def _choice_text(row: dict[str, Any]) -> str:
    measured = any(isinstance(value, dict) for value in row.values())
    return row["choice"] or ("" if measured else "no effect in budget")


def _count_text(row: dict[str, Any]) -> str:
    return f"{row['n'] - row['failed']} of {row['n']}" if row["failed"] else str(row["n"])


def _bind(vector: SteeringVector, model: Model) -> SteeringVector:
    """A vector that fits the model; an unbound one is bound to it."""
    if vector.metadata.model.bound:
        check_fits(vector, model.identity)
        return vector
    return bind(vector, model.identity)


def _measure_each(
    model: Model,
    source: ModelSource | None,
    subjects: list[Subject],
    job: Callable[[Model, Subject], list[dict[str, Any]]],
    jobs: int,
) -> Iterator[tuple[Subject, list[dict[str, Any]]]]:
    """The rows of each subject, measured here or in several processes."""
    if jobs > 1 and source is not None:
        yield from processes.measure(source, subjects, job, jobs)
        return
    for subject in subjects:
        yield subject, job(model, subject)


def measure_subject(
    model: Model,
    subject: Subject,
    *,
    texts: Sequence[str],
    settings: Settings,
    rivals: Mapping[str, Mapping[str, SteeringVector]],
) -> list[dict[str, Any]]:
    """A row of plain JSON for each method and baseline.

    texts: those that vectors are made from. rivals: vectors from elsewhere, by subject.

    Raises:
        InputError: the condition changes nothing, or a text is too long.
        HookError: a steer was never applied.
    """
    by_method = vectors(model, subject, texts, settings.methods, settings.max_tokens)
    task = _task(subject, settings, settings.seed)
    on = bench(model, task, lambda task, n: None)
    by_method |= {
        name: with_lengths(model, vector, on.own)
        for name, vector in rivals.get(subject.name, {}).items()
    }
    steers = {
        name: _strongest_cell(on, vector, task.writing, Budget())
        for name, vector in by_method.items()
    }
    chosen = {name: steer for name, steer in steers.items() if steer is not None}
    table = _table(list(chosen.items()), subject.condition, settings.guidance)
    fresh = _task(subject, settings, settings.seed + 1)
    rows = measure_rows(model, [variant for _, variant in table], fresh)
    every = list(measures())
    shown = [
        _row(subject, name, row, every, chosen.get(name))
        for (name, _), row in zip(table, rows, strict=True)
    ]
    # Methods without a cell within the budget get an empty row.
    nothing = [name for name, steer in steers.items() if steer is None]
    return shown + [{"subject": subject.name, "method": name, "choice": None} for name in nothing]


def _task(subject: Subject, settings: Settings, seed: int) -> Task:
    writing = TextSettings(
        subject.prompts,
        Conditions(subject.condition, "", chat=False),
        samples=settings.samples,
        max_tokens=settings.max_tokens,
        seed=seed,
    )
    judge = by_grammar(subject.grammar) if subject.grammar else None
    return Task(HeldOut(), writing, None, judge)


def with_lengths(
    model: Model, vector: SteeringVector, texts: Sequence[GeneratedText]
) -> SteeringVector:
    """The vector with the mean lengths of activations on these texts, if its file lacks them, as
    imported ones do."""
    metadata = vector.metadata
    if all(layer.resid_norm for layer in metadata.statistics):
        return vector
    sites = [Site(layer, metadata.activation_site) for layer in metadata.layers]
    _, lengths = read_means(model, [(text.ids, text.n) for text in texts], sites)
    statistics = tuple(
        msgspec.structs.replace(layer, resid_norm=rounded(float(length)))
        for layer, length in zip(metadata.statistics, lengths.mean(0), strict=True)
    )
    known = msgspec.structs.replace(metadata, statistics=statistics, sha256="")
    return replace(vector, metadata=known)


def _strongest_cell(
    on: Bench, vector: SteeringVector, writing: TextSettings, budget: Budget
) -> Steer | None:
    """The strongest cell within the budget; None if there is none."""
    search = GridSearch(on, budget.kl, first_look=False, resumable=False)
    grid, scores = search.run(Grid(_rows(vector)))
    _, tried = decide(on, grid, scores, budget, cell_trial(on, grid, writing))
    if tried is None or tried.extra_nats.value > budget.nats:
        return None
    return grid.steer(*tried.position)


def _rows(vector: SteeringVector) -> tuple[GridRow, ...]:
    """A row for each layer. Low-rank and distilled edits get one row for all layers together,
    imported vectors both."""
    metadata = vector.metadata
    columns = default_coefficients(vector)
    layers = tuple(layer.layer for layer in metadata.statistics if layer.norm)
    alone = tuple(GridRow(vector, (layer,), columns, vector.name) for layer in layers)
    together = GridRow(vector, layers, columns, vector.name)
    if metadata.rank or metadata.method.name == "distill":
        return (together,)
    if metadata.method.name == "import" and len(alone) > 1:
        return (*alone, together)
    return alone


def _table(
    steers: Sequence[tuple[str, Steer]], condition: str, guidance: Sequence[float]
) -> list[tuple[str, Variant]]:
    """The rows: unsteered, each method, random directions of the first one's length, the prompt,
    and the condition as live guidance."""
    every = variants([steer for _, steer in steers], condition=condition, guidance=guidance)
    vector_rows = [variant for variant in every if variant.kind == "vector"]
    random_rows = [variant for variant in every if variant.kind == "random"][:1]
    return [
        ("unsteered", every[0]),
        *zip((name for name, _ in steers), vector_rows, strict=True),
        *(("random direction", variant) for variant in random_rows),
        *(("the prompt", variant) for variant in every if variant.kind == "prompt"),
        *(
            (f"the prompt guided ×{strength:g}", variant)
            for strength, variant in zip(
                guidance, [row for row in every if row.kind == "guidance"], strict=True
            )
        ),
    ]


def _row(
    subject: Subject, name: str, row: EvaluationRow, every: Sequence[str], steer: Steer | None
) -> dict[str, Any]:
    return {
        "subject": subject.name,
        "method": name,
        "choice": None if steer is None else f"{steer.coefficient}@{format_layers(steer.layers)}",
        **{key: plain(row.measures.get(key)) for key in every},
    }
