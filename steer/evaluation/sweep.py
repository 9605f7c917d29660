"""Layers by coefficients, scored teacher-forced: which effect each cell has, and at what cost.

Effect: the preference shift on pairs, or the recovery of a condition. Cost: KL(p_base || p_steered)
on unrelated texts. The coefficients of a row share what lies below their lowest layer
(`steer.evaluation.scoring`); what is done is kept in a journal, row by row and batch by batch. With
many texts every cell gets a first look, and only what may still be chosen is scored on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from steer.evaluation.batches import Measure, Text, distance, drift, log_prob
from steer.evaluation.evaluate import Task, check_effect
from steer.evaluation.scoring import UNSTEERED, Cell, Scorer, score
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
from steer.measures.grids import EffectKind, Grid, Plan, survivors
from steer.measures.measures import preference
from steer.models.model import Model
from steer.sites import format_layers

Array = NDArray[np.float64]

#: Positions of each text at which divergences are taken: neighbours tell much the same.
POSITIONS = 16
#: A first look is at one text in `LOOK`, and at `FEWEST` at least.
LOOK, FEWEST = 4, 12

#: Gets what is being done, and which share of it is done.
Progress = Callable[[str, float], None]
Chosen = NDArray[np.bool_]


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
    *,
    max_kl: float | None = None,
) -> Iterator[Grid]:
    """Score the cells; yields the grid after each of its rows.

    With a budget, every cell is scored on a part of the texts first, and on the others only what
    may still be chosen (`steer.measures.grids.survivors`); without, every cell on every text.

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
    every = np.ones(shape, dtype=bool)
    looked = _looked(texts) if max_kl is not None else None
    if looked is None or max_kl is None:
        whole = _Part.of(texts, [range(texts.n_items), range(len(texts.unrelated))])
        yield from _scored(whole, plan, grid, every, done, on_progress)
        return
    first, rest = (_Part.of(texts, which) for which in looked)

    def at_first(what: str, share: float) -> None:
        on_progress(f"first look: {what}", share)

    yield from _scored(first, plan, grid, every, done, at_first)
    yield from _scored(rest, plan, grid, survivors(grid, max_kl), done, on_progress)


def _looked(texts: Bench) -> tuple[list[Sequence[int]], list[Sequence[int]]] | None:
    """Items and unrelated texts for a first look, and the others; None where these are few."""
    sizes = texts.n_items, len(texts.unrelated)
    steps = [min(LOOK, size // FEWEST) for size in sizes]
    if min(steps) < 2:
        return None
    first: list[Sequence[int]] = [range(0, n, step) for n, step in zip(sizes, steps, strict=True)]
    return first, [
        [index for index in range(n) if index % step] for n, step in zip(sizes, steps, strict=True)
    ]


@dataclass
class _Part:
    """Some of the texts: the items and unrelated texts that they are, and a bench of them alone."""

    items: list[int]
    unrelated: list[int]
    bench: Bench

    @classmethod
    def of(cls, texts: Bench, which: Sequence[Sequence[int]]) -> _Part:
        items, unrelated = map(list, which)
        sides = len(texts.effect) // texts.n_items
        effect = [texts.effect[side * texts.n_items + i] for side in range(sides) for i in items]
        part = replace(texts, effect=effect, unrelated=[texts.unrelated[i] for i in unrelated])
        return cls(items, unrelated, part)


def _scored(
    part: _Part, plan: Plan, grid: Grid, wanted: Chosen, done: Journal, on_progress: Progress
) -> Iterator[Grid]:
    """The grid with the wanted cells of some texts filled in, after each row."""
    bench = part.bench
    most = max(1, int(wanted.sum(1).max()))
    of_effect = Scorer(bench.model, bench.effect, bench.measure, most)
    of_drift = Scorer(bench.model, bench.unrelated, drift, most)
    total = wanted.sum() * (len(bench.effect) + len(bench.unrelated))
    finished = 0
    labels = plan.labels()

    def report(row: int, n_units: int) -> None:
        nonlocal finished
        finished += n_units
        on_progress(labels[row], finished / total)

    for row in np.flatnonzero(wanted.any(1)).tolist():
        columns = np.flatnonzero(wanted[row]).tolist()
        cells: list[Cell] = [UNSTEERED, *((plan.steer(row, column),) for column in columns)]
        key, count = f"{row} {columns}", partial(report, row)
        sums = _row(of_effect, cells, done, f"effect {key} {part.items[:2]}", count)
        effects, weights = bench.effects(sums)
        if bench.kind == "recovery":
            check_effect(weights, bench.effect)
        grid.weights[part.items] = weights
        grid.effect[row, np.ix_(columns, part.items)[0], part.items] = effects
        if bench.kind == "preference":
            grid.level[row, np.ix_(columns, part.items)[0], part.items] = bench.levels(sums)[1:]
        sums = _row(of_drift, cells, done, f"drift {key} {part.unrelated[:2]}", count)
        grid.drift[row, np.ix_(columns, part.unrelated)[0], part.unrelated] = sums[1:]
        yield grid


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
