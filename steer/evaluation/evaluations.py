"""Measure the effect and the cost of vectors, beside baselines.

Each row of the table is a variant (`steer.evaluation.task`). Its texts are scored and generated
under its cells, and every registered measure (`steer.measures`) computes a number from these
observations. A journal keeps the results of each batch, so that an interrupted run can be resumed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steer.base.durations import seconds_of
from steer.base.errors import InputError, UsageError
from steer.base.intervals import Interval, plain
from steer.base.journal import Journal
from steer.base.progress import Progress, silent
from steer.distillation.lessons import Lesson
from steer.evaluation.batches import Text, TokenMeasure, distance, drift, log_prob
from steer.evaluation.cells import PROMPTED, Cell, GuidedCell, steers_of
from steer.evaluation.data import (
    Data,
    Engine,
    Texts,
    Warn,
    chosen_on,
    data_of,
    loaded,
    user_steers,
    warn_of_readers,
    warn_python,
    writer_of,
)
from steer.evaluation.judges import judge_of
from steer.evaluation.scoring import Nats, Sums, check_effect, expected_nats, score
from steer.evaluation.task import Task, Variant, journal, n_units, names_of, variants
from steer.evaluation.written import (
    Continue,
    GeneratedText,
    lesson_text,
    own_texts,
    pair_texts,
    plain_texts,
    write_cells,
    write_conditioned,
    write_guided,
)
from steer.generate.pace import Size, announce, largest_size, left_out, pace, sizes
from steer.measures.concepts import Judge, meaning_of
from steer.measures.formulas import preference, shifts, wrong_way
from steer.measures.measure import Baselines, Columns, Measure, Observations
from steer.measures.registry import measures
from steer.measures.tables import NOTHING, in_console, in_notebook, table
from steer.models.model import Model
from steer.steering.steers import check_all_fit

Array = NDArray[np.float64]

#: Rows that lm-evaluation-harness runs on; its tasks take longer than everything else.
HARNESS_KINDS = ("unsteered", "vector", "prompt")


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """The measures of a variant, by their names.

    For several cells (random directions) the intervals also cover the choice of directions. shifts:
    change of each pair's preference, in nats, [pair], the mean over cells. samples: some of its
    texts. tasks: metrics of lm-evaluation-harness, by their names.
    """

    variant: Variant
    measures: dict[str, Interval] = field(default_factory=dict)
    shifts: Array | None = None
    samples: tuple[str, ...] = ()
    tasks: dict[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`: a table of rows by measures.

    described: the model, its device and dtype. vectors: hash of each vector, by its name in the
    table. n: numbers of pairs, generated texts and unrelated texts. chosen_on: for each vector, how
    many of the held-out texts its recommendation was chosen on, which makes it look better.
    measures: those that some row has. concept: as the user typed it. command: the command that
    reproduces the result, if known. finish: call it once the result is stored; it removes the
    journal.
    """

    model: str
    fingerprint: str
    described: str
    vectors: Mapping[str, str]
    seed: int
    condition: str | None
    n: Mapping[str, int]
    rows: tuple[EvaluationRow, ...]
    measures: tuple[Measure, ...]
    chosen_on: Mapping[str, int] = field(default_factory=dict)
    concept: str | None = None
    command: str = ""
    finish: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)

    def row(self, kind: str, vector: str | None = None) -> EvaluationRow:
        """The first row of a kind: unsteered, vector, opposite, random or prompt.

        Raises:
            UsageError: there is no such row.
        """
        for row in self.rows:
            if row.variant.kind == kind and vector in (None, row.variant.vector):
                return row
        raise UsageError(f"the evaluation has no row {kind!r}")

    def meaning(self, measure: Measure) -> str:
        """One line about a measure, for the reader of the table."""
        return (
            meaning_of(self.concept, measure.meaning)
            if measure.name == "concept"
            else (measure.meaning)
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON, as `steer eval --json` prints it."""
        every = measures()
        return {
            "command": self.command,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "vectors": dict(self.vectors),
            "seed": self.seed,
            "condition": self.condition,
            "n": dict(self.n),
            "chosen_on": dict(self.chosen_on),
            "rows": [
                {
                    "label": row.variant.label,
                    "kind": row.variant.kind,
                    "vector": row.variant.vector,
                    **{name: plain(row.measures.get(name)) for name in every},
                    "lm_eval": {name: plain(metric) for name, metric in row.tasks.items()},
                    "shifts": None if row.shifts is None else row.shifts.tolist(),
                    "wrong_way": None if row.shifts is None else wrong_way(row.shifts),
                    "samples": list(row.samples),
                }
                for row in self.rows
            ],
        }

    def to_pandas(self) -> Any:
        """A pandas frame: a line for each row and measure, with value, low, high and unit.

        Raises:
            UsageError: pandas is not installed.
        """
        return frame(
            {
                "row": row.variant.label,
                "kind": row.variant.kind,
                "vector": row.variant.vector,
                "measure": measure.name,
                "unit": measure.unit,
                **(plain(row.measures[measure.name]) or {}),
            }
            for row in self.rows
            for measure in self.measures
            if measure.name in row.measures
        )

    def plot(self) -> Any:
        """A matplotlib figure: a panel for each measure, the rows with their intervals.

        Raises:
            UsageError: matplotlib is not installed.
        """
        from steer.measures import pictures

        rows = [(row.variant.label, row.measures) for row in self.rows]
        return pictures.bars(rows, self.measures)

    def view(self, width: int) -> Iterator[Any]:
        """The table for a terminal: lines of text and rich tables."""
        tasks = list(dict.fromkeys(name for row in self.rows for name in row.tasks))
        rows = [
            [
                row.variant.label,
                *(_cell(measure, row.measures.get(measure.name)) for measure in self.measures),
                *(_task_cell(row.tasks.get(name)) for name in tasks),
            ]
            for row in self.rows
        ]
        heads = ["", *(measure.title for measure in self.measures), *tasks]
        yield table(heads, rows)
        yield ""
        for measure in self.measures:
            yield f"{measure.title}: {self.meaning(measure)}"
        if tasks:
            yield f"{', '.join(tasks)}: from lm-evaluation-harness, ± 1.96 standard errors"
        yield ""
        for row in self.rows:
            if row.variant.kind == "vector" and row.shifts is not None:
                wrong = wrong_way(row.shifts)
                which = ", ".join(str(index + 1) for index in wrong[:8])
                more = ", ..." if len(wrong) > 8 else ""
                worst = f", the worst first: {which}{more}" if wrong else ""
                yield (
                    f"{row.variant.label}: {len(wrong)} of {len(row.shifts)} pairs move the wrong"
                    f" way{worst}"
                )
        for name, n in self.chosen_on.items():
            yield (
                f"{name}: its recommendation was chosen on {n} of these texts, so its numbers look"
                " better than they are"
            )
        numbers = [f"{self.n['pairs']} pairs"] if self.n["pairs"] else []
        numbers += [f"{self.n['texts']} generated texts per row", f"seed {self.seed}"]
        yield f"{self.described} · {', '.join(numbers)} · 95 % intervals in brackets"
        if self.command:
            yield f"again: {self.command}"

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        yield from in_console(self.view(options.max_width))

    def _repr_html_(self) -> str:
        return in_notebook(self)


def _fit_to_time(seconds: float, model: Model, n_cells: int, data: Data, note: Warn) -> Data:
    """As many texts as fit into a time, by an estimate."""
    texts = data.held_out.all_texts
    n_items = len(texts) // (1 if data.held_out.pairs is None else 2)
    length = 30 + sum(map(len, texts)) / 4 / max(1, len(texts))
    full = Size(n_items or data.samples, data.samples, data.max_tokens)
    speed = pace(model)

    def predicted(size: Size) -> float:
        own = size.samples * (30 + size.max_tokens)
        read = n_cells * (2 * size.items * length + 3 * own)
        return read / speed.read + n_cells * size.samples * size.max_tokens / speed.written

    size, needed = largest_size(sizes(full), predicted, seconds)
    note(announce(seconds, needed, left_out(full, size), predicted(full)))
    return replace(
        data,
        held_out=data.held_out.first(size.items),
        samples=size.samples,
        max_tokens=size.max_tokens,
    )


def evaluate(
    model: Any,
    vectors: Any,
    texts: Texts | None = None,
    *,
    condition: str | None = None,
    baseline: str = "",
    chat: bool = False,
    concept: str | Judge | None = None,
    judge_model: str | None = None,
    judge_url: str | None = None,
    prompts: Sequence[str] | None = None,
    unrelated: Texts | None = None,
    budget: str | float | None = None,
    samples: int = 48,
    max_tokens: int = 64,
    seed: int = 0,
    names: Any = None,
    guidance: Sequence[float] = (),
    lm_eval: Sequence[str] = (),
    lm_eval_limit: int | None = None,
    allow_overlap: bool = False,
    allow_other_model: bool = False,
    engine: Engine | None = None,
    engine_key: Sequence[str] = (),
    command: str = "",
    progress: Progress = silent,
    note: Warn = lambda text: None,
    warn: Warn = warn_python,
) -> Evaluation:
    """Measure the effect and the cost of vectors. Baselines: the unsteered model, the opposite
    vector, random directions, and the condition as a prompt.

    model: a model, or a function that loads it, which is called after everything else is checked.
    vectors: one or several steers, vectors, or specs (`joyful:2@12/response`). texts: held-out
    pairs, or texts for a condition: a file, a list of records, or a contrast set. concept: a judge
    of generated texts, such as `words:glad,happy`, or a function from texts to pairs of numerator
    and denominator; guidance: strengths at which the condition guides the model live, a row each;
    judge_model and judge_url are for `judge:...`. lm_eval: tasks of lm-evaluation-harness, by name
    or .yaml file. budget: a time to fit into, such as `5m`, by an
    estimate; what that leaves out is noted. engine: generates texts instead of the model;
    engine_key: its name and settings, for the journal. command: the command to show for
    reproducing the result. progress, note and warn are callbacks; nothing is printed.

    Raises:
        InputError: there is no data to measure an effect on, data cannot be used, a vector was made
            from them, or the condition changes nothing.
        ModelError: a vector belongs to another model.
        SteerError: a vector cannot be read.
        HookError: a steer was never applied.
    """
    steers = user_steers(vectors)
    known = [steer.vector.metadata for steer in steers]
    used = [vector for steer in steers for vector in steer.vectors]
    data = data_of(
        known, texts, names=names, unrelated=unrelated, prompts=prompts, condition=condition,
        baseline=baseline, chat=chat, samples=samples, max_tokens=max_tokens, seed=seed,
        allow_overlap=allow_overlap, others=[vector.metadata for vector in used], warn=warn,
    )  # fmt: skip
    stands_for = data.condition_of(known)
    if data.held_out.texts is not None and stands_for is None:
        raise InputError(
            "texts without pairs need a condition to compare with",
            hint="give pairs, or a --condition",
        )
    if data.held_out.pairs is None and stands_for is None and concept is None:
        raise InputError(
            "there is no data to measure an effect on",
            hint="pass --texts with held-out pairs, a --condition, or a --concept",
        )
    if guidance and (stands_for is None or engine is not None):
        raise InputError(
            "guidance runs a condition beside the plain prompt, with Hugging Face",
            hint="pass --condition, and no --engine",
        )
    chosen = chosen_on(known, data.held_out)
    for name, n in chosen.items():
        warn(
            f"the recommendation of vector {name!r} was chosen on {n} of these"
            f" {len(data.held_out.all_texts)} texts, so its numbers look better than they are;"
            " measure on other texts"
        )
    every = measures()
    tasks = _harness_tasks(lm_eval)
    judge = (
        concept
        if not isinstance(concept, str)
        else (judge_of(concept, judge_model, judge_url, seed, warn))
    )
    seconds = None if budget is None else seconds_of(budget)
    model = loaded(model)
    for text in check_all_fit(used, model.identity, allow_other_model=allow_other_model):
        warn(text)
    table = variants(steers, condition=stands_for and stands_for[0], guidance=guidance)
    if seconds is not None:
        data = _fit_to_time(seconds, model, sum(len(row.cells) for row in table), data, note)
        samples = data.samples
    task = data.task(known, judge)
    warn_of_readers(task, warn, steers=steers)
    cells = [cell for row in table for cell in row.cells if steers_of(cell)]
    done = journal(model, table, task, list(engine_key))
    if len(done):
        note("resuming an interrupted evaluation")
    with (
        writer_of(engine, model, cells) as write,
        progress("measuring", n_units(task, table)) as advance,
    ):
        rows = measure_rows(
            model, table, task, lambda activity, n: advance(n, activity), write, done
        )
    if tasks is not None:
        from steer.evaluation import harness

        compared = [row for row in rows if row.variant.kind in HARNESS_KINDS]
        with progress("lm-evaluation-harness", len(compared)) as advance:
            for row in compared:
                advance(0, row.variant.label)
                [cell] = row.variant.cells
                row.tasks.update(
                    harness.run(model, tasks, cell, task.writing.conditions, lm_eval_limit)
                )
                advance(1)
    pairs = data.held_out.pairs
    return Evaluation(
        model=model.identity.id,
        fingerprint=model.identity.fingerprint,
        described=model.describe(),
        vectors={name: vector.sha256 for vector, name in names_of(steers).items()},
        seed=seed,
        condition=stands_for and stands_for[0],
        n={
            "pairs": len(pairs.positive) if pairs is not None else 0,
            "texts": samples,
            "unrelated": len(task.unrelated) if task.unrelated else samples,
        },
        rows=tuple(rows),
        measures=tuple(
            measure for name, measure in every.items() if any(name in row.measures for row in rows)
        ),
        chosen_on=chosen,
        concept=concept if isinstance(concept, str) else None,
        command=command,
        finish=done.finish,
    )


def measure_rows(
    model: Model,
    rows: Sequence[Variant],
    task: Task,
    on_progress: Callable[[str, int], None] = lambda task, n_units: None,
    engine: Continue | None = None,
    done: Journal | None = None,
) -> list[EvaluationRow]:
    """Observe every row, and compute every measure.

    rows: the first one is the unsteered one. engine: generates the texts, which the model scores.
    done: the journal of results, from which an interrupted evaluation is resumed.

    Raises:
        InputError: a text is too long for the model, or the condition changes nothing.
        HookError: a steer was never applied.
    """
    kept = Journal(None) if done is None else done
    every = measures()
    observed = _Observer(model, rows, task, on_progress, engine, kept).observe()
    prompt = next((row for row in observed if row.kind == "prompt"), None)
    baselines = Baselines(observed[0], prompt)
    results = []
    for variant, row in zip(rows, observed, strict=True):
        numbers = {name: measure.compute(row, baselines) for name, measure in every.items()}
        pair_shifts = shifts(row, baselines)
        results.append(
            EvaluationRow(
                variant,
                {name: value for name, value in numbers.items() if value is not None},
                None if pair_shifts is None else pair_shifts.mean(0),
                row.texts[:3],
            )
        )
    return results


@dataclass
class _Observer:
    """Scores and generates texts under every cell of every variant."""

    model: Model
    variants: Sequence[Variant]
    task: Task
    on_progress: Callable[[str, int], None]
    engine: Continue | None
    done: Journal

    def observe(self) -> list[Observations]:
        condition, pairs = self.task.writing.conditions, self.task.held_out.pairs
        none: list[Any] = [None] * len(self.variants)
        preferences, divergences, lessons = none, none, list[Lesson]()
        if pairs is not None:
            preferences = self._preferences()
        if condition is not None:
            lessons = write_conditioned(
                self.model, self.task.writing, partial(self.on_progress, "writing"), self.done
            )
            held_out = self.task.held_out.texts
            texts = [lesson_text(lesson) for lesson in lessons]
            if held_out is not None:
                texts = plain_texts(self.model, held_out, condition)
            divergences = self._score(texts, distance, "recovery")
            check_effect(divergences[0][0], texts)
        written = self._generated(lessons)
        drifts, counts = self._drifts(written[0])
        nats = [
            self._nats(index, variant, own, lessons)
            for index, (variant, own) in enumerate(zip(self.variants, written, strict=True))
        ]
        return [
            self._observations(
                variant, written[index], preferences[index], divergences[index],
                (drifts[index], counts), nats[index],
            )
            for index, variant in enumerate(self.variants)
        ]  # fmt: skip

    def _observations(
        self,
        variant: Variant,
        written: Sequence[GeneratedText],
        preferences: Array | None,
        divergences: Array | None,
        drifts: tuple[Array, Array],
        nats: Nats,
    ) -> Observations:
        pairs, judge = self.task.held_out.pairs, self.task.judge
        texts = tuple(self.model.decode(text.own) for text in written)
        concept: Columns | None = None
        if judge is not None:
            graded = np.array(judge(texts), np.float64).reshape(-1, 2)
            concept = graded[:, 0], graded[:, 1]
        starts = tuple(part.start for _, part in self._parts(variant))
        return Observations(
            kind=variant.kind,
            preferences=preferences,
            endings=pairs is not None and pairs.completes,
            divergences=divergences,
            drifts=drifts[0],
            drift_tokens=drifts[1],
            texts=texts,
            tokens=tuple(text.own for text in written),
            nats=nats,
            concept=concept,
            starts=starts if len(variant.cells) > 1 else (0,),
        )

    def _score(self, texts: Sequence[Text], measure: TokenMeasure, task: str) -> list[Sums]:
        """Sums [cell, text] of each row."""
        cells = [cell for variant in self.variants for cell in variant.cells]
        report = partial(self.on_progress, task)
        sums = score(self.model, texts, cells, measure, report, self.done, task)
        ends = np.cumsum([len(variant.cells) for variant in self.variants])
        return np.split(sums, ends[:-1].tolist())

    def _preferences(self) -> list[Array]:
        """Preferences [cell, pair] of each row."""
        pairs, condition = self.task.held_out.pairs, self.task.writing.conditions
        assert pairs is not None
        texts = pair_texts(self.model, pairs, condition.condition if condition else None)
        n = len(pairs.positive)
        sums = self._score(texts, log_prob, "scoring pairs")
        return [preference(row[:, :n], row[:, n:]) for row in sums]

    def _generated(self, lessons: Sequence[Lesson]) -> list[list[GeneratedText]]:
        """The generated texts of each row, of all its cells together."""
        conditioned = [GeneratedText(lesson.baseline, lesson.n) for lesson in lessons]
        parts = [
            [] if variant.kind == "prompt" else self._parts(variant) for variant in self.variants
        ]
        every = [(cell, part) for row in parts for cell, part in row]
        # An engine generates all texts in one batch, the model those of one cell at a time.
        batches = [every] if self.engine is not None else [[part] for part in every]
        texts = iter(
            texts for index, cells in enumerate(batches) for texts in self._write(index, cells)
        )
        return [
            [text for _ in row for text in next(texts)] if row else conditioned for row in parts
        ]

    def _write(self, index: int, cells: Sequence[tuple[Cell, range]]) -> list[list[GeneratedText]]:
        """The texts of the cells in batch `index`."""
        key = f"texts {index}"
        kept = self.done.get(key)
        report = partial(self.on_progress, "writing")
        [(first, numbers), *_] = cells
        if kept is None and isinstance(first, GuidedCell):
            texts = write_guided(self.model, self.task.writing, first.strength, numbers, report)
            self.done.put(key, [[[text.ids, text.n] for text in texts]])
            return [texts]
        if kept is None:
            written = write_cells(
                self.model,
                self.task.writing,
                [(steers_of(cell), numbers) for cell, numbers in cells],
                report,
                self.engine,
            )
            self.done.put(key, [[[text.ids, text.n] for text in row] for row in written])
            return written
        self.on_progress("writing", sum(len(part) for _, part in cells))
        return [[GeneratedText(tuple(ids), n) for ids, n in row] for row in kept]

    def _parts(self, variant: Variant) -> list[tuple[Cell, range]]:
        """The indices of the texts that each cell generates; cells without any are left out."""
        n, cells = self.task.writing.samples, variant.cells
        cuts = [round(n * part / len(cells)) for part in range(len(cells) + 1)]
        parts = zip(cells, map(range, cuts, cuts[1:]), strict=False)
        return [(cell, part) for cell, part in parts if part]

    def _drifts(self, own: Sequence[GeneratedText]) -> tuple[list[Array], Array]:
        """KL of each row, [cell, text], and the number of tokens in each text."""
        if self.task.unrelated is not None:
            condition = self.task.writing.conditions
            texts = plain_texts(self.model, self.task.unrelated, condition)
        else:
            texts = own_texts(self.model, self.task.writing, own)
        counts = np.array([float(len(text.scored)) for text in texts])
        return self._score(texts, drift, "KL"), counts

    def _nats(
        self,
        index: int,
        variant: Variant,
        written: Sequence[GeneratedText],
        lessons: Sequence[Lesson],
    ) -> Nats:
        """The expected nats of a row's texts under the unsteered model."""
        texts = hashlib.sha256(json.dumps([text.ids for text in written]).encode()).hexdigest()[:16]
        costs = partial(self._costs, variant, written, lessons)
        nats, counts = self.done.kept(f"nats {index} of {texts}", costs)
        return np.array(nats), np.array(counts)

    def _costs(
        self, variant: Variant, written: Sequence[GeneratedText], lessons: Sequence[Lesson]
    ) -> list[list[float]]:
        if variant.kind == "prompt":
            parts: list[tuple[Cell, Sequence[Text]]]
            parts = [(PROMPTED, [lesson_text(lesson) for lesson in lessons])]
        elif variant.kind == "guidance":
            [cell] = variant.cells
            parts = [(cell, own_texts(self.model, self.task.writing, written))]
        else:
            parts = [
                (cell, [text.scored for text in written[part.start : part.stop]])
                for cell, part in self._parts(variant)
            ]
        return [array.tolist() for array in expected_nats(self.model, parts)]


def _cell(measure: Measure, interval: Interval | None) -> str:
    if interval is None or not math.isfinite(interval.value):
        return NOTHING
    return measure.shown(interval)


def _task_cell(interval: Interval | None) -> str:
    return NOTHING if interval is None else str(interval)


def frame(lines: Any) -> Any:
    """A pandas frame of dicts.

    Raises:
        UsageError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError:
        raise UsageError("a frame needs pandas", hint="pip install pandas") from None
    return pd.DataFrame(list(lines))


def _harness_tasks(names: Sequence[str]) -> Any:
    """Tasks of lm-evaluation-harness; None if there are no names."""
    from importlib.util import find_spec

    if not names:
        return None
    if find_spec("lm_eval") is None:
        raise UsageError(
            "--lm-eval needs lm-evaluation-harness", hint="pip install 'steer-activations[lm-eval]'"
        )
    from steer.evaluation import harness

    return harness.load(names)
