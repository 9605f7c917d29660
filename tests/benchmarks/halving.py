"""What halving leaves out: `python tests/benchmarks/halving.py [VALUE]`.

For each mood, style and topic of the pocket grammar vectors by four methods at all five layers, 20
rows, are scored on everything. Halving is then played back over these scores with the items and
texts in many orders: how often the row that reaches most at the budget is kept, how much of that is
reached at least, and which share of the scores was needed.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from unnumbered import HELD_OUT, SWEEPING_SEED, TRAINED, TRAINING_SEED, steer, write_pairs

from steer.contrasts import heldout
from steer.contrasts.prompts import OPENINGS
from steer.contrasts.records import records
from steer.contrasts.source import ModelSource
from steer.evaluation.sweep import bench, run
from steer.evaluation.task import Task
from steer.evaluation.written import Writing
from steer.journal import Journal
from steer.measures.grids import Array, Grid, Plan, Row, default_coefficients, reach
from steer.measures.halving import added, better_half, strides
from steer.models.model import Model, load
from steer.pocket import corpus
from steer.vectors import store

METHODS = ("mean_diff", "pca", "lda", "probe")
MAX_KL, ORDERS = 0.1, 40


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


def halved(grid: Grid) -> tuple[list[int], float]:
    """Which rows are left, and which share of all scores that took."""
    n, n_texts = grid.effect.shape[-1], grid.drift.shape[-1]
    seen = replace(
        grid, effect=np.full_like(grid.effect, np.nan), drift=np.full_like(grid.drift, np.nan)
    )
    rows, scores = list(range(len(grid.effect))), 0
    every = strides(len(rows), min(n, n_texts))
    for stride in every:
        items, texts = (added(count, stride, every[0]) for count in (n, n_texts))
        for row in rows:
            seen.effect[row][:, items] = grid.effect[row][:, items]
            seen.drift[row][:, texts] = grid.drift[row][:, texts]
        scores += len(rows) * len(items)
        if stride > 1:
            rows = better_half(seen, rows, MAX_KL)
    return rows, scores / (len(grid.effect) * n)


def shuffled(grid: Grid, rng: np.random.Generator) -> Grid:
    items, texts = (rng.permutation(one.shape[-1]) for one in (grid.effect, grid.drift))
    return replace(
        grid,
        effect=grid.effect[..., items],
        weights=grid.weights[items],
        drift=grid.drift[..., texts],
        counts=grid.counts[texts],
    )


def played(grid: Grid) -> Array:
    """[order, (share reached, share of scores)]."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(ORDERS):
        one = shuffled(grid, rng)
        reached = reach(one.effects(), one.costs(), MAX_KL)
        rows, scores = halved(one)
        found.append((reached[rows].max() / reached.max(), scores))
    return np.array(found)


def main() -> None:
    model = load(ModelSource("pocket"))
    asked = sys.argv[1:]
    every = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for kind, values in corpus.KINDS.items():
            for value in values:
                if asked and value not in asked:
                    continue
                every.append(played(scored(model, kind, value)))
                told(value, every[-1])
        os.chdir("/")
    told("all", np.concatenate(every))


def told(name: str, found: Array) -> None:
    kept, least, scores = (found[:, 0] == 1).mean(), found[:, 0].min(), found[:, 1].mean()
    print(f"{name:9} best row kept {kept:.0%}, reached at least {least:.2f}, scores {scores:.2f}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
