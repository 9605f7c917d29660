"""How well vectors work and what they cost, beside the baselines that a number needs.

What is done is kept in a journal, batch by batch, so that a run that was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from steer.base.errors import InputError
from steer.base.intervals import Interval, mean, rate, ratio
from steer.base.journal import Journal
from steer.distillation.lessons import Lesson
from steer.distillation.task import LEAST_EFFECT
from steer.evaluation.batches import Text, distance, drift, log_prob
from steer.evaluation.nats import expected_nats, extra
from steer.evaluation.scoring import CONDITION, Cell, Sums, score
from steer.evaluation.task import Task, Variant
from steer.evaluation.written import (
    Continue,
    Written,
    lesson_text,
    own_texts,
    pair_texts,
    plain_texts,
    write_cells,
    write_conditioned,
)
from steer.measures.measures import distinct, moved, multiple_choice, preference
from steer.models.model import Model
from steer.steering.steers import Steer

Array = NDArray[np.float64]

#: What a row may have, in the order of the table: effect, then cost.
MEASURES = (
    "preference",
    "right_way",
    "multiple_choice",
    "recovery",
    "concept",
    "kl",
    "extra_nats",
    "distinct",
)

Progress = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of a variant, by the names of `MEASURES`.

    Of several cells (random directions) the intervals are of the mean over all that could have been
    drawn. shifts: change of each pair's preference, in nats, [pair], the mean over cells. samples:
    some of its texts. tasks: metrics of lm-evaluation-harness, by their names.
    """

    variant: Variant
    measures: dict[str, Interval] = field(default_factory=dict)
    shifts: Array | None = None
    samples: tuple[str, ...] = ()
    tasks: dict[str, Interval] = field(default_factory=dict)


def evaluate(
    model: Model,
    rows: Sequence[Variant],
    task: Task,
    on_progress: Progress = lambda what, n_units: None,
    engine: Continue | None = None,
    done: Journal | None = None,
) -> list[Row]:
    """Measure every row; `engine` writes the texts in place of the model, which scores them.

    done: what an evaluation that was stopped has kept, and this one keeps; see `journal`.

    Raises:
        InputError: texts that the model does not take, or a condition that changes nothing.
        HookError: a steer was never applied.
    """
    kept = Journal(None) if done is None else done
    return _Evaluation(model, rows, task, on_progress, engine, kept).run()


@dataclass
class _Evaluation:
    model: Model
    variants: Sequence[Variant]
    task: Task
    on_progress: Progress
    engine: Continue | None
    done: Journal

    def __post_init__(self) -> None:
        self.rows = [Row(variant) for variant in self.variants]
        self.lessons: list[Lesson] = []
        self.cells = [cell for variant in self.variants for cell in variant.cells]

    def run(self) -> list[Row]:
        condition = self.task.writing.conditions
        if self.task.held_out.pairs is not None:
            self._preferences()
        if condition is not None:
            self.lessons = write_conditioned(
                self.model, self.task.writing, lambda n: self.on_progress("writing", n), self.done
            )
            given = self.task.held_out.texts
            texts = [lesson_text(lesson) for lesson in self.lessons]
            if given is not None:
                texts = plain_texts(self.model, given, condition)
            self._recoveries(texts)
        written = self._written()
        self._drifts(written[0])
        self._writings(written)
        return self.rows

    def _score(self, texts: Sequence[Text], measure: object, what: str) -> list[Sums]:
        """Sums [cell, text] of each row."""
        sums = score(
            self.model,
            texts,
            self.cells,
            measure,  # type: ignore[arg-type]
            lambda n: self.on_progress(what, n),
            self.done,
            what,
        )
        ends = np.cumsum([len(row.variant.cells) for row in self.rows])
        return np.split(sums, ends[:-1].tolist())

    def _preferences(self) -> None:
        pairs, condition = self.task.held_out.pairs, self.task.writing.conditions
        assert pairs is not None
        texts = pair_texts(self.model, pairs, condition.condition if condition else None)
        sums = self._score(texts, log_prob, "scoring pairs")
        n = len(pairs.positive)
        found = [preference(one[:, :n], one[:, n:]) for one in sums]
        # Endings of nothing in common are no answers to choose from.
        asked = pairs.completes
        for index, (row, one) in enumerate(zip(self.rows, found, strict=True)):
            shifts = one - found[0]
            measures = dict(row.measures)
            if row.variant.kind != "unsteered":
                measures |= {"preference": mean(shifts), "right_way": moved(shifts)}
            if asked:
                matching = multiple_choice(one)
                measures["multiple_choice"] = rate(matching, np.ones(matching.shape))
            self.rows[index] = Row(row.variant, measures, shifts.mean(0))

    def _recoveries(self, texts: Sequence[Text]) -> None:
        sums = self._score(texts, distance, "recovery")
        [base] = sums[0]
        check_effect(base, texts)
        for row, one in zip(self.rows, sums, strict=True):
            row.measures["recovery"] = ratio(base - one, base)

    def _written(self) -> list[list[Written]]:
        """The texts of each row, of all its cells together."""
        taught = [Written(one.baseline, one.n) for one in self.lessons]
        parts = [
            [] if row.variant.kind == "prompt" else self._parts(row.variant) for row in self.rows
        ]
        every = [(cell or (), part) for row in parts for cell, part in row]
        # An engine writes all of them in one batch, and the model those of one cell.
        batches = [every] if self.engine is not None else [[one] for one in every]
        made = iter(
            texts for index, cells in enumerate(batches) for texts in self._write(index, cells)
        )
        return [[text for _ in row for text in next(made)] if row else taught for row in parts]

    def _write(
        self, index: int, cells: Sequence[tuple[Sequence[Steer], range]]
    ) -> list[list[Written]]:
        """The texts of some cells, of which the `index`th batch is."""
        key = f"texts {index}"
        found = self.done.get(key)
        if found is None:
            made = write_cells(
                self.model,
                self.task.writing,
                cells,
                lambda n: self.on_progress("writing", n),
                self.engine,
            )
            self.done.put(key, [[[one.ids, one.n] for one in row] for row in made])
            return made
        self.on_progress("writing", sum(len(part) for _, part in cells))
        return [[Written(tuple(ids), n) for ids, n in row] for row in found]

    def _parts(self, variant: Variant) -> list[tuple[Cell, range]]:
        """The numbers of the texts that each cell writes, of those that write any."""
        n, cells = self.task.writing.samples, variant.cells
        cuts = [round(n * part / len(cells)) for part in range(len(cells) + 1)]
        parts = zip(cells, map(range, cuts, cuts[1:]), strict=False)
        return [(cell, part) for cell, part in parts if part]

    def _drifts(self, own: Sequence[Written]) -> None:
        condition = self.task.writing.conditions
        if self.task.unrelated is not None:
            texts = plain_texts(self.model, self.task.unrelated, condition)
        else:
            texts = own_texts(self.model, self.task.writing, own)
        counts = [len(text.scored) for text in texts]
        for row, sums in zip(self.rows, self._score(texts, drift, "KL"), strict=True):
            if row.variant.kind != "unsteered":
                row.measures["kl"] = ratio(sums, counts)

    def _writings(self, written: Sequence[Sequence[Written]]) -> None:
        """What the texts of each row cost the unsteered model, and what is in them."""
        nats = []
        for index, (row, one) in enumerate(zip(self.rows, written, strict=True)):
            found = self.done.kept(f"nats {index}", partial(self._nats, row.variant, one))
            nats.append((np.array(found[0]), np.array(found[1])))
        for index, row in enumerate(self.rows):
            texts = [self.model.decode(one.own) for one in written[index]]
            by_cell = partial(self._by_cell, row.variant)
            if row.variant.kind != "unsteered":
                row.measures["extra_nats"] = extra(by_cell(nats[index]), by_cell(nats[0]))
            grams = _columns([distinct(one.own) for one in written[index]])
            row.measures["distinct"] = rate(*by_cell(grams))
            if self.task.judge is not None:
                row.measures["concept"] = rate(*by_cell(_columns(self.task.judge(texts))))
            self.rows[index] = Row(row.variant, row.measures, row.shifts, tuple(texts[:3]))

    def _by_cell(self, variant: Variant, columns: tuple[Array, Array]) -> tuple[Array, Array]:
        """Columns of a variant's texts; of several cells their sums, [cell, 1]: each has texts of
        its own, whose chance is in the sums."""
        if len(variant.cells) == 1:
            return columns
        starts = [part.start for _, part in self._parts(variant)]
        first, second = (np.add.reduceat(one, starts)[:, None] for one in columns)
        return first, second

    def _nats(self, variant: Variant, written: Sequence[Written]) -> list[list[float]]:
        """What the texts of a row were expected to cost the unsteered model, as `Nats`."""
        if variant.kind == "prompt":
            texts = [lesson_text(one) for one in self.lessons]
            return [one.tolist() for one in expected_nats(self.model, texts, CONDITION)]
        parts = [
            expected_nats(self.model, [one.scored for one in written[part.start : part.stop]], cell)
            for cell, part in self._parts(variant)
        ]
        sums, counts = zip(*parts, strict=True)
        return [np.concatenate(one).tolist() for one in (sums, counts)]


def check_effect(base: Array, texts: Sequence[Text]) -> None:
    """Refuse a condition that cannot be told from none. base: sums of KL(p_condition || p_base).

    Raises:
        InputError: it moves the next token by less than `LEAST_EFFECT` nats.
    """
    if base.sum() < LEAST_EFFECT * sum(len(text.scored) for text in texts):
        raise InputError(
            "the condition changes nothing in what the model writes",
            hint="does the model heed it as a prompt? see with `steer apply`",
        )


def _columns(rows: Sequence[tuple[float, float]]) -> tuple[Array, Array]:
    both = np.array(rows, dtype=np.float64)
    return both[:, 0], both[:, 1]
