"""Score the effect and the cost of each cell of a sweep, with teacher forcing.

Effect: the preference shift on pairs, or the recovery of a condition. Cost: KL(p_base || p_steered)
on unrelated texts. The coefficients of a row share the computation below their lowest layer
(`steer.evaluation.scoring`). A journal keeps the results of each row and batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from steer import resuming
from steer.base.intervals import Interval, ratio
from steer.base.journal import Journal
from steer.evaluation.batches import Text, TokenMeasure, distance, drift, log_prob
from steer.evaluation.cells import UNSTEERED, Cell, GuidedCell, SteeredCell
from steer.evaluation.scoring import (
    TextSet,
    TextSetScores,
    check_acted,
    check_effect,
    score,
    score_rows,
)
from steer.evaluation.task import Task
from steer.evaluation.written import (
    Continue,
    GeneratedText,
    lesson_text,
    own_texts,
    pair_texts,
    plain_texts,
    write,
    write_conditioned,
)
from steer.measures.elimination import Cells, Indices, contenders, looks, n_looks
from steer.measures.formulas import preference
from steer.measures.grids import EffectKind, Grid, Scores
from steer.models.model import Model
from steer.vectors.sites import format_layers

Array = NDArray[np.float64]

#: Called with the current task, and the share of it that is done.
OnShare = Callable[[str, float], None]


@dataclass
class Bench:
    """The texts that every cell is scored on.

    effect: the positive sides of the pairs and then their negative sides, or texts of the
    condition. own: texts that the unsteered model generated. own_unrelated: whether the unrelated
    texts are the model's own rather than the user's. engine: generates texts instead of the model.
    """

    model: Model
    kind: EffectKind
    effect: list[Text]
    unrelated: list[Text]
    own: list[GeneratedText]
    own_unrelated: bool = True
    engine: Continue | None = None

    @property
    def measure(self) -> TokenMeasure:
        return log_prob if self.kind == "preference" else distance

    @property
    def n_items(self) -> int:
        return len(self.effect) // (2 if self.kind == "preference" else 1)

    def part(self, items: Indices, unrelated: Indices) -> Bench:
        """The bench with some of the items and of the unrelated texts."""
        sides = range(0, len(self.effect), self.n_items)
        effect = [self.effect[side + item] for side in sides for item in items]
        return replace(self, effect=effect, unrelated=[self.unrelated[i] for i in unrelated])

    def effects(self, sums: Array) -> tuple[Array, Array]:
        """Effects [cell, item] and their weights [item].

        sums: [cell, text]; the first cell is the unsteered model.
        """
        if self.kind == "recovery":
            return sums[0] - sums[1:], sums[0]
        levels = self.levels(sums)
        return levels[1:] - levels[0], np.ones(self.n_items)

    def levels(self, sums: Array) -> Array:
        """Preferences [cell, item] from sums [cell, text]."""
        return np.stack([preference(*np.split(cell, 2)) for cell in sums])

    def score(self, cells: Sequence[Cell]) -> tuple[Array, Array]:
        """Effects [cell, item] and their weights [item]."""
        return self.effects(score(self.model, self.effect, [UNSTEERED, *cells], self.measure))


def bench(
    model: Model,
    task: Task,
    on_progress: Callable[[str, float], None],
    engine: Continue | None = None,
) -> Bench:
    """The texts to score on; the model generates the missing ones.

    Raises:
        InputError: a text is too long for the model.
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
    return Bench(model, kind, effect, unrelated, written, task.unrelated is None, engine)


@dataclass(frozen=True, slots=True)
class GuidanceRow:
    """The effect and cost of a condition that guides the model live, on the items of a sweep."""

    strength: float
    effect: Interval
    kl: Interval


def guidance_rows(texts: Bench, task: Task, strengths: Sequence[float]) -> list[GuidanceRow]:
    """A row for each strength of the task's condition: 1 is the condition as a prompt.

    Raises:
        InputError: with the condition, a text is longer than the model takes.
    """
    conditions = task.writing.conditions
    if not strengths or conditions is None:
        return []
    model = texts.model
    effect, unrelated = texts.effect, texts.unrelated
    if task.held_out.pairs is not None:
        effect = pair_texts(model, task.held_out.pairs, conditions.condition)
    if task.unrelated is not None:
        unrelated = plain_texts(model, task.unrelated, conditions)
    cells = [GuidedCell(strength) for strength in strengths]
    effects, weights = replace(texts, effect=effect).score(cells)
    drifts = score(model, unrelated, cells, drift)
    counts = [float(len(text.scored)) for text in unrelated]
    return [
        GuidanceRow(strength, ratio(own, weights), ratio(drifts[index], counts))
        for index, (strength, own) in enumerate(zip(strengths, effects, strict=True))
    ]


def journal(model: Model, grid: Grid, texts: Bench) -> Journal:
    """The journal of a sweep, keyed by everything that its numbers depend on.

    Raises:
        SteerError: the journal cannot be read or written.
    """
    rows = [
        [
            resuming.vector_key(row.vector),
            row.layers,
            list(map(str, row.coefficients)),
            str(row.op),
            str(row.scope),
        ]
        for row in grid.rows
    ]
    return resuming.journal(
        model,
        "sweeps",
        rows,
        [texts.kind, [asdict(text) for text in [*texts.effect, *texts.unrelated]]],
    )


def run(
    texts: Bench,
    grid: Grid,
    done: Journal,
    on_progress: OnShare = lambda task, share: None,
    max_kl: float | None = None,
) -> Iterator[Scores]:
    """Score every cell; yields the scores after each row.

    max_kl: if given, cells that cannot be the strongest within it are not scored on all texts
    (`steer.measures.elimination`).

    Raises:
        InputError: the condition changes nothing.
        IdleError: some cells of a row changed nothing, and others did. A row whose cells all
            changed nothing is listed in `Scores.idle` instead; see `acting_rows`.
        HookError: a cell was never applied.
    """
    counts = np.array([float(len(text.scored)) for text in texts.unrelated])
    scores = Scores.empty(texts.kind, grid, texts.n_items, counts)
    scoring = _Scoring(texts, grid, scores, done, on_progress)
    cells = np.ones((len(grid.rows), grid.n_columns), dtype=bool)
    n_texts = texts.n_items, len(texts.unrelated)
    n = 1 if max_kl is None else n_looks(min(n_texts))
    for number, (items, unrelated) in enumerate(
        zip(*(looks(count, n) for count in n_texts), strict=True)
    ):
        name = f"look {number + 1} of {n} at {format_layers(np.flatnonzero(cells).tolist())}"
        yield from scoring.look(name, cells, items, unrelated)
        if max_kl is not None:
            cells &= contenders(scoring.scores, max_kl)


def acting_rows(grid: Grid, scores: Scores) -> list[int]:
    """The indices of the rows that changed a scored token. A steer of the prompt above the last
    attention, for example, changes none.

    Raises:
        IdleError: no row did.
    """
    rows = [row for row in range(len(grid.rows)) if row not in scores.idle]
    if not rows:
        n_texts = scores.effect.shape[-1] + len(scores.counts)
        check_acted([str(grid.steer(0, 0))], n_texts)
    return rows


def completed(texts: Bench, grid: Grid, scores: Scores, cells: Cells) -> Scores:
    """The scores after scoring these cells on all items and texts.

    Raises:
        IdleError: a cell changed nothing.
        HookError: a cell was never applied.
    """
    scoring = _Scoring(texts, grid, scores, Journal(None), may_be_idle=False)
    for _ in scoring.look(
        "", cells, *(np.arange(array.shape[-1]) for array in (scores.effect, scores.drift))
    ):
        pass
    return scoring.scores


@dataclass
class _Scoring:
    """Scores the cells of a grid on one part of the texts after another.

    share_done: of all scores. may_be_idle: whether a row is allowed in which no cell changes
    anything.
    """

    texts: Bench
    grid: Grid
    scores: Scores
    done: Journal
    on_progress: OnShare = lambda task, share: None
    share_done: float = 0.0
    may_be_idle: bool = True
    #: For each row, the steers that have changed no text yet, of each text set.
    _idle: dict[int, list[frozenset[str]]] = field(default_factory=dict)

    def look(self, name: str, cells: Cells, items: Indices, unrelated: Indices) -> Iterator[Scores]:
        """Score cells on some items and texts; yields the scores after each row. name: the key in
        the journal."""
        texts = self.texts.part(items, unrelated)
        parts = [
            TextSet(f"effect, {name}", texts.effect, texts.measure),
            TextSet(f"drift, {name}", texts.unrelated, drift),
        ]
        columns = {row: np.flatnonzero(cells[row]) for row in np.flatnonzero(cells.any(1)).tolist()}
        by_row: dict[int, list[Cell]] = {
            row: [UNSTEERED, *(SteeredCell((self.grid.steer(row, i),)) for i in some.tolist())]
            for row, some in columns.items()
        }
        n_scores = sum(map(len, by_row.values())) * (len(texts.effect) + len(texts.unrelated))
        report = self._progress_callback(len(items) / self.texts.n_items / n_scores)
        for row, scored in score_rows(texts.model, parts, by_row, report, self.done):
            effects, weights = texts.effects(scored[0].sums)
            levels = None
            if texts.kind == "recovery":
                check_effect(weights, texts.effect)
            else:
                levels = texts.levels(scored[0].sums)[1:]
            drifts = scored[1].sums[1:]
            self.scores = self.scores.with_row(
                row, columns[row], (items, effects, weights, levels), (unrelated, drifts)
            )
            self._note_idle(row, columns[row], scored)
            yield self.scores

    def _note_idle(self, row: int, columns: Indices, scored: Sequence[TextSetScores]) -> None:
        """Record which rows have changed nothing so far in one of the text sets.

        Raises:
            IdleError: some of a row's cells have changed nothing, and others have.
        """
        looked = {str(self.grid.steer(row, column)) for column in columns.tolist()}
        before = self._idle.get(row, [result.idle for result in scored])
        # Steers that are no longer scored keep their state.
        now = [
            (old - looked) | (old & result.idle) for old, result in zip(before, scored, strict=True)
        ]
        self._idle[row] = now
        steers = [self.grid.steer(row, column) for column in range(self.grid.n_columns)]
        every = {str(steer) for steer in steers if steer.coefficient.value}
        is_idle = self.may_be_idle and bool(every) and any(idle >= every for idle in now)
        if not is_idle:
            for idle, part in zip(now, (self.texts.effect, self.texts.unrelated), strict=True):
                check_acted(idle, len(part))
        rows = self.scores.idle | {row} if is_idle else self.scores.idle - {row}
        self.scores = replace(self.scores, idle=rows)

    def _progress_callback(self, share: float) -> Callable[[int, int], None]:
        """A callback that adds up progress. share: of the whole work, for each score."""
        labels = self.grid.labels()

        def report(row: int, n_scores: int) -> None:
            self.share_done += n_scores * share
            self.on_progress(labels[row], self.share_done)

        return report
