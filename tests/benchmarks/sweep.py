"""What a sweep costs beside its cells one at a time: `python tests/benchmarks/sweep.py [MODEL]`.

Every layer with nine coefficients, by recovery of a condition on 50 texts that the model wrote
under it and by KL on 50 others of its own, of several lengths, every token scored. One at a time,
each cell and text is a forward with its hooks, as `steer apply` would run it; the sweep runs them
as `steer sweep` does, as it comes and with `--exhaustive`. All in one process, in turns row by row
or one after another, in seconds of CPU, which a busy machine does not change much; the numbers have
to agree.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from steer.base.journal import Journal
from steer.contrasts.heldout import HeldOut
from steer.distillation.lessons import Conditions
from steer.distillation.recovery import token_kl
from steer.evaluation.batches import Text
from steer.evaluation.bench import Array, Bench, bench, run
from steer.evaluation.task import Task
from steer.evaluation.written import TextSettings
from steer.hooks.clock import TokenClock
from steer.hooks.inject import injected
from steer.measures.grids import Grid, GridRow, Scores, default_coefficients
from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource
from steer.steering.steers import Steer
from steer.vectors import store

VECTOR = Path(__file__).parents[2] / "vectors" / "joyful.safetensors"
CONDITION, PROMPT = "[mood: joyful]", "One day"
TEXTS, MAX_KL = 50, 0.1
#: Tokens that a text is given to write.
LENGTHS = (8, 24, 64)


def one_at_a_time(bench: Bench, grid: Grid) -> Iterator[tuple[Array, Array]]:
    """Effects and drifts of each row, [column, text]; the unsteered log-probabilities are computed
    once, before."""
    log_likelihoods = [log_probs(bench.model, text, conditioned=True) for text in bench.effect]
    base = [log_probs(bench.model, text) for text in [*bench.effect, *bench.unrelated]]
    divergences = [
        float(token_kl(*both).sum()) for both in zip(log_likelihoods, base, strict=False)
    ]
    teachers = [*log_likelihoods, *base[len(log_likelihoods) :]]
    both = list(zip([*bench.effect, *bench.unrelated], teachers, strict=True))
    for row in range(len(grid.rows)):
        steers = [grid.steer(row, column) for column in range(grid.n_columns)]
        sums = np.array(
            [[steered_kl(bench.model, steer, *pair) for pair in both] for steer in steers]
        )
        yield divergences - sums[:, : len(log_likelihoods)], sums[:, len(log_likelihoods) :]


def steered_kl(model: Model, steer: Steer, text: Text, teacher: Tensor) -> float:
    with injected(model, [steer], TokenClock(1, torch.zeros(1, dtype=torch.int64))):
        return float(token_kl(teacher, log_probs(model, text)).sum())


def log_probs(model: Model, text: Text, *, conditioned: bool = False) -> Tensor:
    ids = text.conditioned if conditioned else text.ids
    logits = model.network(torch.tensor([ids], device=model.device)).logits[0]
    before = [position - 1 + len(ids) - len(text.ids) for position in text.scored]
    return logits[before].float().log_softmax(-1)


def swept(bench: Bench, grid: Grid, max_kl: float | None) -> Scores:
    *_, scores = run(bench, grid, Journal(None), max_kl=max_kl)
    return scores


def timed(do: Callable[[], Scores]) -> tuple[Scores, float]:
    start = time.process_time()
    return do(), time.process_time() - start


def compared(texts: Bench, grid: Grid) -> None:
    """Print a row of the table."""
    every, complete = timed(lambda: swept(texts, grid, None))
    some, fast = timed(lambda: swept(texts, grid, MAX_KL))
    start = time.process_time()
    alone = list(one_at_a_time(texts, grid))
    slow = time.process_time() - start
    for scores, expected in ((every.effect, 0), (every.drift, 1)):
        np.testing.assert_allclose(scores, [row[expected] for row in alone], rtol=1e-3, atol=2e-3)
    scored = ~np.isnan(some.effect)
    np.testing.assert_allclose(some.effect[scored], every.effect[scored], rtol=1e-3, atol=2e-3)
    mean = statistics.mean(len(text.ids) for text in [*texts.effect, *texts.unrelated])
    print(
        f"{mean:6.0f} {slow:14.2f} {fast:6.2f} {fast / slow:6.3f} {scored.mean():6.2f}"
        f" {complete:11.2f} {complete / slow:6.3f}",
        flush=True,
    )


@torch.no_grad()
def main() -> None:
    model = load(ModelSource(sys.argv[1] if len(sys.argv) > 1 else "pocket"))
    vector = store.read(VECTOR)
    columns = default_coefficients(vector)
    grid = Grid(
        tuple(GridRow(vector, (layer,), columns, "joyful") for layer in vector.metadata.layers)
    )
    print(f"{len(grid.rows)} x {grid.n_columns} cells, {TEXTS} texts and {TEXTS}", end=", ")
    print(f"threads: {torch.get_num_threads()}")
    print("tokens  one at a time  sweep  ratio scored  exhaustive  ratio")
    for length in LENGTHS:
        conditions = Conditions(CONDITION, "", chat=False)
        writing = TextSettings((PROMPT,), conditions, samples=TEXTS, max_tokens=length)
        texts = bench(model, Task(HeldOut(), writing), lambda phase, n: None)
        swept(texts, Grid(grid.rows[:1]), None)  # what is tried once for a model
        compared(texts, grid)


if __name__ == "__main__":
    main()
