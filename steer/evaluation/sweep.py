"""Layers by coefficients, scored teacher-forced: which effect each cell has, and at what cost.

Effect: the preference shift on pairs, or the recovery of a condition. Cost: KL(p_base || p_steered)
on unrelated texts. The coefficients of a row share what lies below their lowest layer
(`steer.evaluation.scoring`); what is done is kept in a journal, row by row and batch by batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from steer.evaluation.batches import Measure, Text, distance, drift, log_prob
from steer.evaluation.evaluate import Task, check_effect
from steer.evaluation.scoring import UNSTEERED, Cell, Scorer, score
from steer.evaluation.written import (
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
from steer.sites import format_layers

Array = NDArray[np.float64]

#: Positions of each text at which divergences are taken: neighbours tell much the same.
POSITIONS = 16

#: Gets what is being done, and how many units were just done.
Progress = Callable[[str, int], None]


@dataclass
class Bench:
    """The texts that every cell is scored on.

    effect: pairs' positive sides and then their negative ones, or texts of the condition. own: what
    the unsteered model wrote.
    """

    model: Model
    kind: EffectKind
    effect: list[Text]
    unrelated: list[Text]
    own: list[Written]

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


def bench(model: Model, task: Task, on_progress: Progress) -> Bench:
    """Texts to score on, those included that the model has to write first.

    Raises:
        InputError: texts that the model does not take.
    """
    written = write(model, task.writing, (), on_done=lambda count: on_progress("writing", count))
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
    return Bench(model, kind, effect, thinned(unrelated, POSITIONS), written)


def n_units(plan: Plan, texts: Bench) -> int:
    """Scores of a text under a cell."""
    n_texts = len(texts.effect) + len(texts.unrelated)
    return len(plan.layers) * len(plan.coefficients) * n_texts


def journal(model: Model, plan: Plan, texts: Bench) -> Journal:
    """The journal of a sweep: of everything that its numbers depend on.

    Raises:
        SteerError: it cannot be read or written.
    """
    weight = model.network.get_input_embeddings().weight
    return Journal.of(
        "sweeps",
        [model.identity.fingerprint, str(weight.dtype), str(weight.device)],
        [plan.vector.sha256, plan.layers, list(map(str, plan.coefficients)), str(plan.scope)],
        [texts.kind, [asdict(text) for text in [*texts.effect, *texts.unrelated]]],
    )


def run(
    texts: Bench,
    plan: Plan,
    done: Journal,
    on_progress: Progress = lambda what, n_units: None,
) -> Iterator[Grid]:
    """Score every cell; yields the grid after each of its rows.

    Raises:
        InputError: the condition changes nothing.
        HookError: a cell was never applied.
    """
    n = len(plan.coefficients)
    shape = (len(plan.layers), n)
    effect = np.full((*shape, texts.n_items), np.nan)
    drifted = np.full((*shape, len(texts.unrelated)), np.nan)
    level = np.full_like(effect, np.nan)
    counts = np.array([float(len(text.scored)) for text in texts.unrelated])
    of_effect = Scorer(texts.model, texts.effect, texts.measure, n)
    of_drift = Scorer(texts.model, texts.unrelated, drift, n)
    for row, layers in enumerate(plan.layers):
        cells: list[Cell] = [UNSTEERED, *((plan.steer(row, column),) for column in range(n))]
        report = partial(on_progress, f"layer {format_layers(layers)}")
        sums = _row(of_effect, cells, done, f"effect {row}", report)
        effect[row], weights = texts.effects(sums)
        if texts.kind == "recovery":
            check_effect(weights, texts.effect)
        if texts.kind == "preference":
            level[row] = texts.levels(sums)[1:]
        drifted[row] = _row(of_drift, cells, done, f"drift {row}", report)[1:]
        yield Grid(texts.kind, effect, weights, drifted, counts, level)


def _row(
    scorer: Scorer,
    cells: Sequence[Cell],
    done: Journal,
    key: str,
    on_done: Callable[[int], None],
) -> Array:
    """Sums [cell, text] of one set of layers."""
    sums = np.zeros((len(cells), len(scorer.texts)))
    for group, indices in enumerate(scorer.indices):
        name = f"{key}: {format_layers(indices)}"
        found = done.get(name)
        if found is None:
            found = scorer.score(group, cells).tolist()
            done.put(name, found)
        sums[:, indices] = found
        on_done((len(cells) - 1) * len(indices))
    return sums
