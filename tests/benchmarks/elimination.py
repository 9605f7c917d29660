"""The rows that a sweep drops early: `python tests/benchmarks/elimination.py [VALUE]`, or on a chat
model `elimination.py MODEL VECTOR PAIRS.jsonl [REPLAYS]`.

For each mood, style and topic of the pocket grammar vectors by four methods at all five layers, 20
rows of nine cells, are scored on everything. Elimination is then played back over these scores with
the items and texts in many orders, on the rows of each method and on all of them: how often the
strongest cell within the budget is kept, how much of its effect is at least, and which share of the
scores was needed.

On a chat model all layers of one vector are scored on everything; what is played back is the whole
sweep but for its finer coefficients: three coefficients of each layer on some of the texts, the
layers that are left out, and the elimination among the others. A run that was stopped goes on.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from unnumbered import HELD_OUT, SWEEPING_SEED, TRAINED, TRAINING_SEED, steer, write_pairs

from steer.base.journal import Journal
from steer.contrasts import heldout
from steer.contrasts.prompts import OPENINGS, QUESTIONS
from steer.contrasts.records import records
from steer.evaluation.bench import bench, journal, run
from steer.evaluation.task import Task
from steer.evaluation.written import TextSettings
from steer.measures.elimination import contenders, looks, n_looks
from steer.measures.grids import (
    PILOT,
    Array,
    Grid,
    GridRow,
    Scores,
    default_coefficients,
    promising_rows,
)
from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource
from steer.pocket import corpus
from steer.vectors import store

METHODS = ("mean_diff", "pca", "lda", "probe")
MAX_KL, ORDERS = 0.1, 20


def scored(model: Model, kind: str, value: str) -> Scores:
    write_pairs(Path("stories.jsonl"), kind, value, TRAINED, TRAINING_SEED)
    others = Path("held-out.jsonl")
    write_pairs(others, kind, value, HELD_OUT, SWEEPING_SEED)
    rows: list[GridRow] = []
    for method in METHODS:
        path = Path(f"{value}-{method}.safetensors")
        steer("extract", "stories.jsonl", "--method", method, "-o", path)
        vector = store.read(path)
        columns = default_coefficients(vector)
        rows += [GridRow(vector, (layer,), columns, method) for layer in vector.metadata.layers]
    held_out = heldout.read(records(others.read_bytes(), others.name))
    texts = bench(model, Task(held_out, TextSettings(tuple(OPENINGS))), lambda phase, n: None)
    *_, scores = run(texts, Grid(tuple(rows)), Journal(None))
    return scores


def played(scores: Scores) -> tuple[float, float]:
    """Which share of the best effect is kept, and which share of all scores that took."""
    n, n_texts = scores.effect.shape[-1], scores.drift.shape[-1]
    effect, drift = np.full(scores.effect.shape, np.nan), np.full(scores.drift.shape, np.nan)
    cells, n_scored = np.ones(scores.effect.shape[:2], dtype=bool), 0
    parts = n_looks(min(n, n_texts))
    for items, texts in zip(looks(n, parts), looks(n_texts, parts), strict=True):
        for row, column in np.argwhere(cells):
            effect[row, column, items] = scores.effect[row, column, items]
            drift[row, column, texts] = scores.drift[row, column, texts]
        seen = replace(scores, effect=effect, drift=drift)
        n_scored += int(cells.sum()) * len(items)
        cells &= contenders(seen, MAX_KL)
    return best(seen) / best(scores), n_scored / (cells.size * n)


def played_with_layers(scores: Scores) -> tuple[float, float]:
    """The same as `played`, after layers have been left out as a sweep does it."""
    n, n_texts = scores.effect.shape[-1], scores.drift.shape[-1]
    parts = n_looks(min(n, n_texts))
    items, texts = looks(n, parts)[0], looks(n_texts, parts)[0]
    first = replace(
        scores,
        effect=scores.effect[:, PILOT][..., items],
        weights=scores.weights[items],
        drift=scores.drift[:, PILOT][..., texts],
        counts=scores.counts[texts],
        level=scores.level[:, PILOT][..., items],
    )
    rows = promising_rows(first, MAX_KL)
    share, n_scored = played(rows_of(scores, rows))
    kept = share * best(rows_of(scores, rows)) / best(scores)
    n_cells = scores.effect.shape[0] * scores.effect.shape[1]
    tested = len(scores.effect) * len(PILOT) * len(items)
    return kept, (tested / n + n_scored * len(rows) * scores.effect.shape[1]) / n_cells


def on_a_chat_model(path: str, vector_path: str, pairs: str, n_replays: int) -> None:
    """Score every cell of a vector, and play the sweep back so many times."""
    model = load(ModelSource(path, fast=True))
    vector = store.read(Path(vector_path))
    columns = default_coefficients(vector)
    rows = [GridRow(vector, (layer,), columns, "vector") for layer in vector.metadata.layers]
    held_out = heldout.read(records(Path(pairs).read_bytes(), pairs), chat=True)
    n = len(held_out.all_texts) // 2
    writing = TextSettings(QUESTIONS, chat=True, samples=n, max_tokens=32)
    texts = bench(model, Task(held_out, writing), lambda phase, n: None)
    grid = Grid(tuple(rows))
    kept = journal(model, grid, texts)
    *_, scores = run(texts, grid, kept, lambda phase, share: print(f"{share:.0%} {phase}"))
    rng = np.random.default_rng(0)
    results = np.array([played_with_layers(shuffled(scores, rng)) for _ in range(n_replays)])
    print_row("the strongest cell", results)
    cell = np.unravel_index(
        np.where(scores.costs() <= MAX_KL, scores.effects(), -np.inf).argmax(),
        scores.effects().shape,
    )
    interval = scores.effect_at(int(cell[0]), int(cell[1]))
    within = (results[:, 0] * interval.value >= interval.low).mean()
    print(f"layer {cell[0]}, {columns[cell[1]]}: {interval}; within its interval: {within:.0%}")


def best(scores: Scores) -> float:
    """The strongest effect within the budget among the rows that were scored on all texts."""
    return float(np.nanmax(np.where(scores.costs() <= MAX_KL, scores.effects(), np.nan)))


def shuffled(scores: Scores, rng: np.random.Generator) -> Scores:
    items, texts = (rng.permutation(table.shape[-1]) for table in (scores.effect, scores.drift))
    return replace(
        scores,
        effect=scores.effect[..., items],
        weights=scores.weights[items],
        drift=scores.drift[..., texts],
        counts=scores.counts[texts],
        level=scores.level[..., items],
    )


def rows_of(scores: Scores, rows: Sequence[int]) -> Scores:
    return replace(
        scores, effect=scores.effect[rows], drift=scores.drift[rows], level=scores.level[rows]
    )


def replayed(scores: Scores) -> Array:
    """[order, (share of the best effect, share of scores)]."""
    rng = np.random.default_rng(0)
    return np.array([played(shuffled(scores, rng)) for _ in range(ORDERS)])


def main() -> None:
    chosen = sys.argv[1:]
    if len(chosen) > 2:
        on_a_chat_model(*chosen[:3], n_replays=int(chosen[3]) if len(chosen) > 3 else 200)
        return
    model = load(ModelSource("pocket"))
    every: dict[str, list[Array]] = {"five rows": [], "twenty rows": []}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for kind, values in corpus.KINDS.items():
            for value in values:
                if chosen and value not in chosen:
                    continue
                scores = scored(model, kind, value)
                n = len(scores.effect) // len(METHODS)
                alone = [
                    replayed(rows_of(scores, range(i * n, i * n + n))) for i in range(len(METHODS))
                ]
                every["five rows"].append(np.concatenate(alone))
                every["twenty rows"].append(replayed(scores))
                for name, results in every.items():
                    print_row(f"{value}, {name}", results[-1])
        os.chdir("/")
    for name, results in every.items():
        print_row(f"all, {name}", np.concatenate(results))


def print_row(name: str, results: Array) -> None:
    kept, least, scores = (results[:, 0] == 1).mean(), results[:, 0].min(), results[:, 1].mean()
    print(f"{name:22} best kept {kept:.0%}, at least {least:.3f} of it, scores {scores:.2f}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
