"""Find the layer and the coefficient: a grid of cells, their scores, a choice, and its evidence.

A sweep goes one way: `sweep_grid` makes the cells, `bench` the texts, `search` scores the cells on
them, `verdict` has one chosen (`choice`) and tests it, and `sweep_result` shows it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from steer.base.durations import seconds_of
from steer.base.errors import InputError, UsageError
from steer.base.progress import Progress, silent
from steer.contrasts import overlap
from steer.evaluation.bench import bench, guidance_rows
from steer.evaluation.cells import Cell, SteeredCell
from steer.evaluation.choice import CHAT_NATS, PLAIN_NATS, Budget
from steer.evaluation.data import (
    Data,
    Engine,
    Texts,
    Warn,
    data_of,
    loaded,
    warn_of_readers,
    warn_python,
    writer_of,
)
from steer.evaluation.search import GridSearch
from steer.evaluation.sweep_grid import RULES, grid_of, strongest
from steer.evaluation.sweep_result import SweepResult
from steer.evaluation.task import Task
from steer.evaluation.verdict import assess
from steer.generate.pace import Size, announce, largest_size, left_out, pace, sizes
from steer.measures.baselines import N_CHANCE
from steer.measures.grids import Grid, thinned
from steer.models.model import Model
from steer.steering.steers import check_all_fit

#: The limits of `quick`: rows, items, generated texts, and their tokens.
QUICK_ROWS, QUICK_ITEMS, QUICK_SAMPLES, QUICK_TOKENS = 6, 12, 12, 24
#: How often a sweep generates its texts, for the estimate of its duration.
GENERATIONS = 10


def check_budget(max_kl: float, max_nats: float | None) -> None:
    """Refuse an invalid budget.

    Raises:
        UsageError: a number is below 0, infinite, or NaN.
    """
    if not all(0 <= budget < math.inf for budget in (max_kl, max_nats or 0)):
        raise UsageError("--max-kl and --max-nats are numbers, 0 or more")


def sweep(
    model: Any,
    vectors: Any,
    texts: Texts | None = None,
    *,
    layers: str | Sequence[int] | None = None,
    coefficients: str | Sequence[float | str] | None = None,
    together: bool = False,
    condition: str | None = None,
    baseline: str = "",
    guidance: Sequence[float] = (),
    chat: bool = False,
    prompts: Sequence[str] | None = None,
    unrelated: Texts | None = None,
    max_kl: float = 0.1,
    max_nats: float | None = None,
    rule: str = "budget",
    exhaustive: bool = False,
    quick: bool = False,
    budget: str | float | None = None,
    samples: int = 48,
    max_tokens: int = 64,
    seed: int = 0,
    names: Any = None,
    allow_overlap: bool = False,
    allow_other_model: bool = False,
    engine: Engine | None = None,
    command: str = "",
    progress: Progress = silent,
    note: Warn = lambda text: None,
    warn: Warn = warn_python,
) -> SweepResult:
    """Find the layer and the coefficient with the largest effect within a budget.

    model: a model, or a function that loads it, which is called after everything else is checked.
    vectors, layers, coefficients, together: as `grid_of`, or a grid. texts: held-out pairs, or
    texts for a condition. guidance: strengths at which the condition guides the model live, to
    compare with. max_kl, max_nats: the budget, in nats per token on unrelated texts, and extra nats
    per token of generated texts, by default 0.1, or 0.25 in a chat. exhaustive: score every cell on
    all texts, even if some of them show that it cannot be the choice. quick: a first answer in
    minutes, from fewer layers, coefficients and texts. budget: a time to fit into, such as `5m`, by
    an estimate; what that leaves out is noted. command: the command to show for reproducing the
    result. progress, note and warn are callbacks; nothing is printed.

    Raises:
        InputError: there is no data to measure an effect on, data cannot be used, a vector was made
            from them, or the condition changes nothing.
        UsageError: an invalid option.
        ModelError: a vector belongs to another model.
        HookError: a cell was never applied.
    """
    check_budget(max_kl, max_nats)
    grid = vectors
    if not isinstance(grid, Grid):
        grid = grid_of(vectors, layers, coefficients, together=together, rule=rule)
    if quick:
        grid = thinned(grid, QUICK_ROWS)
        samples, max_tokens = min(samples, QUICK_SAMPLES), min(max_tokens, QUICK_TOKENS)
    known = [row.vector.metadata for row in grid.rows]
    data = data_of(
        known, texts, names=names, unrelated=unrelated, prompts=prompts, condition=condition,
        baseline=baseline, chat=chat, samples=samples, max_tokens=max_tokens, seed=seed,
        allow_overlap=allow_overlap, warn=warn,
    )  # fmt: skip
    if quick:
        data = replace(data, held_out=data.held_out.first(QUICK_ITEMS))
    if data.held_out.pairs is None and data.condition_of(known) is None:
        raise InputError(
            "there is no data to measure an effect on",
            hint="pass --texts with held-out pairs, or a --condition",
        )
    if guidance and data.condition_of(known) is None:
        raise InputError("guidance needs a condition", hint="pass --condition")
    chosen_rule = next((name for name in RULES if name == rule), None)
    if chosen_rule is None:
        raise UsageError(f"{rule!r} is not a rule", hint="use budget or refusal_direction")
    if rule != "budget" and data.held_out.pairs is None:
        raise UsageError(f"the rule {rule} needs held-out pairs", hint="pass --texts")
    seconds = None if budget is None else seconds_of(budget)
    task = data.task(known).for_choice
    usual_nats = CHAT_NATS if task.writing.chat else PLAIN_NATS
    limits = Budget(max_kl, usual_nats if max_nats is None else max_nats, chosen_rule)
    warn_of_readers(task, warn, vectors=[row.vector for row in grid.rows])
    model = loaded(model)
    vectors_used = [row.vector for row in grid.rows]
    for text in check_all_fit(vectors_used, model.identity, allow_other_model=allow_other_model):
        warn(text)
    if seconds is not None:
        grid, data = _fit_to_time(seconds, model, grid, data, note)
        task = data.task(known).for_choice
    note(
        f"{model.describe()} · {len(grid.rows)} rows × {grid.n_columns} coefficients ·"
        f" budget: KL at most {limits.kl:g} and extra nats at most {limits.nats:g} per token"
    )
    cells: list[Cell] = [SteeredCell((steer,)) for steer in strongest(grid)]
    with writer_of(engine, model, cells) as write:
        with progress("writing texts", _n_written(task)) as advance:
            on = bench(model, task, lambda activity, n: advance(n), write)
        guided = guidance_rows(on, task, guidance)
        by_budget = limits.rule == "budget"  # the other rule needs all scores
        search = GridSearch(
            on,
            limits.kl,
            eliminates=by_budget and not exhaustive,
            refines=by_budget,
            progress=progress,
            note=note,
        )
        grid, scores = search.run(grid)
        with progress("holding the choice against random directions", 100) as advance:
            done = 0.0

            def on_share(task: str, share: float) -> None:
                nonlocal done
                advance(100 * share - done, task)
                done = 100 * share

            verdict = assess(
                on,
                grid,
                scores,
                limits,
                task.writing,
                len(search.left_out),
                twice=not quick,
                on_progress=on_share,
            )
    every = data.held_out.all_texts
    return SweepResult(
        model=model.identity,
        described=model.describe(),
        grid=grid,
        budget=limits,
        writing=task.writing,
        verdict=verdict,
        unsteered=tuple(model.decode(text.ids) for text in on.own[:6]),
        chosen_on=overlap.sketch(every) if every else None,
        left_out=search.left_out,
        idle=tuple(search.idle),
        guidance=tuple(guided),
        command=command,
        finish=search.finish,
    )


def _fit_to_time(
    seconds: float, model: Model, grid: Grid, data: Data, note: Warn
) -> tuple[Grid, Data]:
    """As much of a sweep as fits into a time, by an estimate."""
    held_out = data.held_out
    texts = held_out.all_texts
    n_items = len(texts) // (1 if held_out.pairs is None else 2)
    # Four characters a token, and 30 tokens for a template.
    length = 30 + sum(map(len, texts)) / 4 / max(1, len(texts))
    full = Size(n_items or data.samples, data.samples, data.max_tokens, len(grid.rows))
    speed = pace(model)

    def predicted(size: Size) -> float:
        rows = grid if size.layers in (None, len(grid.rows)) else thinned(grid, size.layers)
        # A cell is read from its layer on, and some are left out after a part of the texts.
        cells = len(rows.rows) * rows.n_columns / 3
        items, own = 2 * size.items * length, size.samples * (30 + size.max_tokens)
        read = cells * (items + own) + N_CHANCE * items / 2 + 3 * GENERATIONS * own
        return read / speed.read + GENERATIONS * size.samples * size.max_tokens / speed.written

    size, needed = largest_size(sizes(full), predicted, seconds)
    missing = left_out(full, size, len(grid.rows))
    note(announce(seconds, needed, missing, predicted(full)))
    if size.layers is not None and size.layers < len(grid.rows):
        grid = thinned(grid, size.layers)
    return grid, replace(
        data, held_out=held_out.first(size.items), samples=size.samples, max_tokens=size.max_tokens
    )


def _n_written(task: Task) -> int:
    both = task.held_out.pairs is None and task.held_out.texts is None
    return task.writing.samples * (2 if both else 1)
