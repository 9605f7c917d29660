"""Layers by coefficients, scored teacher-forced: which effect each cell has, and at what cost.

Effect: the preference shift on pairs, or the recovery of a condition. Cost: KL(p_base || p_steered)
on unrelated texts. The coefficients of a row share what lies below their lowest layer
(`steer.evaluation.scoring`); what is done is kept in a journal, row by row and batch by batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

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
    thinned,
    write,
    write_conditioned,
)
from steer.journal import Journal
from steer.measures.grids import EffectKind, Grid, Plan
from steer.measures.measures import preference
from steer.models.model import Model

Array = NDArray[np.float64]

#: Positions of each text at which divergences are taken: neighbours tell much the same.
POSITIONS = 16

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
        effect = thinned(plain_texts(model, task.held_out.texts, condition), POSITIONS)
    else:
        lessons = write_conditioned(model, task.writing, lambda n: on_progress("writing", n))
        effect = thinned([lesson_text(lesson) for lesson in lessons], POSITIONS)
    given = task.unrelated is not None
    short = thinned(unrelated, POSITIONS)
    return Bench(model, kind, effect, short, written, given, engine)


def journal(model: Model, plan: Plan, texts: Bench) -> Journal:
    """The journal of a sweep: of everything that its numbers depend on.

    Raises:
        SteerError: it cannot be read or written.
    """
    weight = model.network.get_input_embeddings().weight
    rows = [
        [
            row.vector.sha256,
            row.layers,
            list(map(str, row.coefficients)),
            str(row.op),
            str(row.scope),
        ]
        for row in plan.rows
    ]
    return Journal.of(
        "sweeps",
        [model.identity.fingerprint, str(weight.dtype), str(weight.device)],
        rows,
        [texts.kind, [asdict(text) for text in [*texts.effect, *texts.unrelated]]],
    )


def run(
    texts: Bench,
    plan: Plan,
    done: Journal,
    on_progress: Progress = lambda what, share: None,
) -> Iterator[Grid]:
    """Score every cell on every text; yields the grid after each of its rows.

    Raises:
        InputError: the condition changes nothing.
        HookError: a cell was never applied.
    """
    shape = (len(plan.rows), plan.n_columns)
    grid = Grid(
        texts.kind,
        np.full((*shape, texts.n_items), np.nan),
        np.zeros(texts.n_items),
        np.full((*shape, len(texts.unrelated)), np.nan),
        np.array([float(len(text.scored)) for text in texts.unrelated]),
        np.full((*shape, texts.n_items), np.nan),
    )
    parts = [
        Part("effect", texts.effect, texts.measure),
        Part("drift", texts.unrelated, drift),
    ]
    labels = plan.labels()
    rows: list[list[Cell]] = [
        [UNSTEERED, *((plan.steer(row, column),) for column in range(plan.n_columns))]
        for row in range(len(labels))
    ]
    total = len(rows) * (plan.n_columns + 1) * (len(texts.effect) + len(texts.unrelated))
    finished = 0

    def report(row: int, n_scores: int) -> None:
        nonlocal finished
        finished += n_scores
        on_progress(labels[row], finished / total)

    for row, (sums, drifts) in score_rows(texts.model, parts, rows, report, done):
        grid.effect[row], grid.weights[:] = texts.effects(sums)
        if texts.kind == "recovery":
            check_effect(grid.weights, texts.effect)
        else:
            grid.level[row] = texts.levels(sums)[1:]
        grid.drift[row] = drifts[1:]
        yield grid
