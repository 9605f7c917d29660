"""What a sweep leaves out: `python tests/benchmarks/elimination.py [VALUE]`.

For each mood, style and topic of the pocket grammar vectors by four methods at all five layers, 20
rows of nine cells, are scored on everything. Elimination is then played back over these scores with
the items and texts in many orders, on the rows of each method and on all of them: how often the
strongest cell within the budget is kept, how much of its effect is at least, and which share of the
scores was needed.
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
from steer.contrasts.prompts import OPENINGS
from steer.contrasts.records import records
from steer.evaluation.sweep import bench, run
from steer.evaluation.task import Task
from steer.evaluation.written import Writing
from steer.measures.elimination import contenders, looks, n_looks
from steer.measures.grids import Array, Grid, Plan, Row, default_coefficients
from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource
from steer.pocket import corpus
from steer.vectors import store

METHODS = ("mean_diff", "pca", "lda", "probe")
MAX_KL, ORDERS = 0.1, 20


def scored(model: Model, kind: str, value: str) -> Grid:
    write_pairs(Path("stories.jsonl"), kind, value, TRAINED, TRAINING_SEED)
    others = Path("held-out.jsonl")
    write_pairs(others, kind, value, HELD_OUT, SWEEPING_SEED)
    rows: list[Row] = []
    for method in METHODS:
        path = Path(f"{value}-{method}.safetensors")
        steer("extract", "stories.jsonl", "--method", method, "-o", path)
        vector = store.read(path)
        columns = default_coefficients(vector)
        rows += [Row(vector, (layer,), columns, method) for layer in vector.metadata.layers]
    held_out = heldout.read(records(others.read_bytes(), others.name))
    texts = bench(model, Task(held_out, Writing(tuple(OPENINGS))), lambda what, n: None)
    *_, grid = run(texts, Plan(tuple(rows)), Journal(None))
    return grid


def played(grid: Grid) -> tuple[float, float]:
    """Which share of the best effect is kept, and which share of all scores that took."""
    n, n_texts = grid.effect.shape[-1], grid.drift.shape[-1]
    seen = replace(
        grid, effect=np.full_like(grid.effect, np.nan), drift=np.full_like(grid.drift, np.nan)
    )
    cells, scores = np.ones(grid.effect.shape[:2], dtype=bool), 0
    parts = n_looks(min(n, n_texts))
    for items, texts in zip(looks(n, parts), looks(n_texts, parts), strict=True):
        for row, column in np.argwhere(cells):
            seen.effect[row, column, items] = grid.effect[row, column, items]
            seen.drift[row, column, texts] = grid.drift[row, column, texts]
        scores += int(cells.sum()) * len(items)
        cells &= contenders(seen, MAX_KL)
    return best(seen) / best(grid), scores / (cells.size * n)


def best(grid: Grid) -> float:
    """The strongest effect within the budget of what was scored on everything."""
    return float(np.nanmax(np.where(grid.costs() <= MAX_KL, grid.effects(), np.nan)))


def shuffled(grid: Grid, rng: np.random.Generator) -> Grid:
    items, texts = (rng.permutation(one.shape[-1]) for one in (grid.effect, grid.drift))
    return replace(
        grid,
        effect=grid.effect[..., items],
        weights=grid.weights[items],
        drift=grid.drift[..., texts],
        counts=grid.counts[texts],
    )


def rows_of(grid: Grid, rows: Sequence[int]) -> Grid:
    return replace(grid, effect=grid.effect[rows], drift=grid.drift[rows], level=grid.level[rows])


def replayed(grid: Grid) -> Array:
    """[order, (share of the best effect, share of scores)]."""
    rng = np.random.default_rng(0)
    return np.array([played(shuffled(grid, rng)) for _ in range(ORDERS)])


def main() -> None:
    model = load(ModelSource("pocket"))
    asked = sys.argv[1:]
    every: dict[str, list[Array]] = {"five rows": [], "twenty rows": []}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for kind, values in corpus.KINDS.items():
            for value in values:
                if asked and value not in asked:
                    continue
                grid = scored(model, kind, value)
                n = len(grid.effect) // len(METHODS)
                alone = [
                    replayed(rows_of(grid, range(i * n, i * n + n))) for i in range(len(METHODS))
                ]
                every["five rows"].append(np.concatenate(alone))
                every["twenty rows"].append(replayed(grid))
                for name, found in every.items():
                    told(f"{value}, {name}", found[-1])
        os.chdir("/")
    for name, found in every.items():
        told(f"all, {name}", np.concatenate(found))


def told(name: str, found: Array) -> None:
    kept, least, scores = (found[:, 0] == 1).mean(), found[:, 0].min(), found[:, 1].mean()
    print(f"{name:22} best kept {kept:.0%}, at least {least:.3f} of it, scores {scores:.2f}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
