"""Layers by coefficients, scored teacher-forced: which effect each cell has, and at what cost.

Effect: the preference shift on pairs, or the recovery of a condition. Cost: KL(p_base || p_steered)
on unrelated texts. The coefficients of a row share what lies below their lowest layer
(`steer.evaluation.scoring`); what is done is kept in a journal, row by row and batch by batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from steer import resuming
from steer.base.journal import Journal
from steer.evaluation.batches import Measure, Text, distance, drift, log_prob
from steer.evaluation.evaluate import check_effect
from steer.evaluation.scoring import UNSTEERED, Cell, Part, score, score_rows
from steer.evaluation.task import Task
from steer.evaluation.written import (
    Continue,
    Written,
    lesson_text,
    own_texts,
    pair_texts,
    plain_texts,
    write,
    write_conditioned,
)
from steer.measures.elimination import Cells, Indices, contenders, looks, n_looks
from steer.measures.grids import EffectKind, Grid, Plan
from steer.measures.measures import preference
from steer.models.model import Model
from steer.vectors.sites import format_layers

Array = NDArray[np.float64]

#: Gets what is being done, and which share of it is done.
Progress = Callable[[str, float], None]


@dataclass
class Bench:
    """The texts that every cell is scored on.

    effect: pairs' positive sides and then their negative ones, or texts of the condition. own: what
    the unsteered model wrote. given: whether the unrelated texts are somebody's, and not its own.
    engine: what writes in place of the model.
    """

    model: Model
    kind: EffectKind
    effect: list[Text]
    unrelated: list[Text]
    own: list[Written]
    given: bool = False
    engine: Continue | None = None

    @property
    def measure(self) -> Measure:
        return log_prob if self.kind == "preference" else distance

    @property
    def n_items(self) -> int:
        return len(self.effect) // (2 if self.kind == "preference" else 1)

    def part(self, items: Indices, unrelated: Indices) -> Bench:
        """The same with some of the items and of the unrelated texts."""
        sides = range(0, len(self.effect), self.n_items)
        effect = [self.effect[side + item] for side in sides for item in items]
        return replace(self, effect=effect, unrelated=[self.unrelated[one] for one in unrelated])

    def effects(self, sums: Array) -> tuple[Array, Array]:
        """Effects [cell, item] and their weights [item], of sums [cell, text], unsteered first."""
        if self.kind == "recovery":
            return sums[0] - sums[1:], sums[0]
        found = self.levels(sums)
        return found[1:] - found[0], np.ones(self.n_items)

    def levels(self, sums: Array) -> Array:
        """Preferences [cell, item] of sums [cell, text]."""
        return np.stack([preference(*np.split(one, 2)) for one in sums])

    def score(self, cells: Sequence[Cell]) -> tuple[Array, Array]:
        """Effects [cell, item] and their weights [item]."""
        return self.effects(score(self.model, self.effect, [UNSTEERED, *cells], self.measure))


def bench(
    model: Model,
    task: Task,
    on_progress: Callable[[str, int], None],
    engine: Continue | None = None,
) -> Bench:
    """Texts to score on, those included that the model has to write first.

    Raises:
        InputError: texts that the model does not take.
    """
    written = write(model, task.writing, (), lambda count: on_progress("writing", count), engine)
    if task.unrelated is not None:
        unrelated = plain_texts(model, task.unrelated, None)
    else:
        unrelated = own_texts(model, task.writing, written)
    condition = task.writing.conditions
    kind: EffectKind = "recovery"
    if task.held_out.pairs is not None:
        kind, effect = "preference", pair_texts(model, task.held_out.pairs, None)
    elif task.held_out.texts is not None:
        effect = plain_texts(model, task.held_out.texts, condition)
    else:
        lessons = write_conditioned(model, task.writing, lambda n: on_progress("writing", n))
        effect = [lesson_text(lesson) for lesson in lessons]
    given = task.unrelated is not None
    return Bench(model, kind, effect, unrelated, written, given, engine)


def journal(model: Model, plan: Plan, texts: Bench) -> Journal:
    """The journal of a sweep: of everything that its numbers depend on.

    Raises:
        SteerError: it cannot be read or written.
    """
    rows = [
        [
            resuming.vector_key(row.vector),
            row.layers,
            list(map(str, row.coefficients)),
            str(row.op),
            str(row.scope),
        ]
        for row in plan.rows
    ]
    return resuming.journal(
        model,
        "sweeps",
        rows,
        [texts.kind, [asdict(text) for text in [*texts.effect, *texts.unrelated]]],
    )


def run(
    texts: Bench,
    plan: Plan,
    done: Journal,
    on_progress: Progress = lambda what, share: None,
    max_kl: float | None = None,
) -> Iterator[Grid]:
    """Score every cell; yields the grid after each of its rows.

    max_kl: with it, cells that cannot be the strongest within it are not scored on all texts
    (`steer.measures.elimination`).

    Raises:
        InputError: the condition changes nothing.
        HookError: a cell was never applied.
    """
    scoring = _Scoring(texts, plan, _empty(texts, plan), done, on_progress)
    cells = np.ones((len(plan.rows), plan.n_columns), dtype=bool)
    counts = texts.n_items, len(texts.unrelated)
    n = 1 if max_kl is None else n_looks(min(counts))
    for number, (items, unrelated) in enumerate(
        zip(*(looks(one, n) for one in counts), strict=True)
    ):
        name = f"look {number + 1} of {n} at {format_layers(np.flatnonzero(cells).tolist())}"
        yield from scoring.look(name, cells, items, unrelated)
        if max_kl is not None:
            cells &= contenders(scoring.grid, max_kl)


def completed(texts: Bench, plan: Plan, grid: Grid, cells: Cells) -> Grid:
    """The grid with these cells scored on everything.

    Raises:
        HookError: a cell was never applied.
    """
    arrays = {name: getattr(grid, name).copy() for name in ("effect", "weights", "drift", "level")}
    scoring = _Scoring(texts, plan, replace(grid, **arrays), Journal(None))
    for _ in scoring.look(
        "", cells, *(np.arange(one.shape[-1]) for one in (grid.effect, grid.drift))
    ):
        pass
    return scoring.grid


@dataclass
class _Scoring:
    """Scores cells of a plan on parts of the texts, into a grid; `seen` is the share of the items
    that were looked at."""

    texts: Bench
    plan: Plan
    grid: Grid
    done: Journal
    on_progress: Progress = lambda what, share: None
    seen: float = 0.0

    def look(self, name: str, cells: Cells, items: Indices, unrelated: Indices) -> Iterator[Grid]:
        """Score cells on some items and texts; yields the grid after each row. name: what is done
        is kept under it."""
        these, grid = self.texts.part(items, unrelated), self.grid
        parts = [
            Part(f"effect, {name}", these.effect, these.measure),
            Part(f"drift, {name}", these.unrelated, drift),
        ]
        columns = {row: np.flatnonzero(cells[row]) for row in np.flatnonzero(cells.any(1)).tolist()}
        asked: dict[int, list[Cell]] = {
            row: [UNSTEERED, *((self.plan.steer(row, one),) for one in some.tolist())]
            for row, some in columns.items()
        }
        n_scores = sum(map(len, asked.values())) * (len(these.effect) + len(these.unrelated))
        report = self._reporting(len(items) / self.texts.n_items / n_scores)
        for row, (sums, drifts) in score_rows(these.model, parts, asked, report, self.done):
            found, weights = these.effects(sums)
            grid.effect[row][np.ix_(columns[row], items)], grid.weights[items] = found, weights
            if these.kind == "recovery":
                check_effect(weights, these.effect)
            else:
                grid.level[row][np.ix_(columns[row], items)] = these.levels(sums)[1:]
            grid.drift[row][np.ix_(columns[row], unrelated)] = drifts[1:]
            yield grid

    def _reporting(self, share: float) -> Callable[[int, int], None]:
        """What is told of scores, each of which is a share of all."""
        labels = self.plan.labels()

        def report(row: int, n_scores: int) -> None:
            self.seen += n_scores * share
            self.on_progress(labels[row], self.seen)

        return report


def _empty(texts: Bench, plan: Plan) -> Grid:
    shape = (len(plan.rows), plan.n_columns)
    return Grid(
        texts.kind,
        np.full((*shape, texts.n_items), np.nan),
        np.zeros(texts.n_items),
        np.full((*shape, len(texts.unrelated)), np.nan),
        np.array([float(len(text.scored)) for text in texts.unrelated]),
        np.full((*shape, texts.n_items), np.nan),
    )
