"""Find the layer and the coefficient: a grid of cells, their scores, a choice, and its evidence.

`grid_of` makes the cells, `steer.evaluation.bench` scores them, `steer.evaluation.choice` chooses
one, `steer.evaluation.verdict` tests it against chance and for stability, and `SweepResult` shows
it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec

from steer.base.durations import seconds_of
from steer.base.errors import InputError, UsageError, VectorError
from steer.base.files import check_writable
from steer.base.intervals import plain
from steer.base.journal import Journal
from steer.base.progress import Progress, silent
from steer.base.urls import is_url, without_passwords
from steer.base.wording import worded
from steer.contrasts import overlap
from steer.evaluation.bench import (
    Bench,
    GuidanceRow,
    acting_rows,
    bench,
    guidance_rows,
    journal,
    run,
)
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
from steer.evaluation.evaluations import frame
from steer.evaluation.task import Task
from steer.evaluation.verdict import Verdict, assess
from steer.evaluation.written import TextSettings
from steer.generate.pace import Size, announce, largest_size, left_out, pace, sizes
from steer.measures.baselines import N_CHANCE
from steer.measures.elimination import looks, n_looks
from steer.measures.grids import (
    MULTIPLES,
    Grid,
    GridRow,
    Position,
    Scores,
    default_coefficients,
    finer,
    join_scores,
    pilot,
    promising_rows,
    thinned,
)
from steer.measures.heat import LOOKED, heat_map
from steer.measures.tables import in_console, in_notebook, table
from steer.models.model import Model
from steer.steering.operation import Coefficient, Operation, parse_coefficient
from steer.steering.scope import CONSTANT, Scope
from steer.steering.spec import SteerSpec, parse
from steer.steering.steers import Steer, check_all_fit, recommended_operation, usual_scope
from steer.vectors import store
from steer.vectors.metadata import Recommendation, can_be_saved
from steer.vectors.provenance import ModelIdentity
from steer.vectors.sites import format_layers, parse_layers
from steer.vectors.vector import SteeringVector

Rule = Literal["budget", "refusal_direction"]
RULES: tuple[Rule, ...] = ("budget", "refusal_direction")
#: The limits of `quick`: rows, items, generated texts, and their tokens.
QUICK_ROWS, QUICK_ITEMS, QUICK_SAMPLES, QUICK_TOKENS = 6, 12, 12, 24
#: How many cells of the front are shown, the strongest.
FRONT = 8
#: How often a sweep generates its texts, for the estimate of its duration.
GENERATIONS = 10


def grid_of(
    vectors: str | Path | SteeringVector | Sequence[str | Path | SteeringVector],
    layers: str | Sequence[int] | None = None,
    coefficients: str | Sequence[float | str] | None = None,
    *,
    together: bool = False,
    rule: str = "budget",
    save: bool = False,
    find: Callable[[str], Path] = store.find,
) -> Grid:
    """The cells of a sweep: each vector at each of its layers, with each of the coefficients.

    vectors: names, paths, or vectors; also with an op and a scope, as in `joyful:ablate/response`.
    layers: such as `2,5` or `4-7`; by default all that are stored, each alone, and together those
    that the file recommends together. coefficients: such as `5%,10%` (of the activations' length)
    or `0.5,1` (times the vector); by default nine that suit the vector and the op. together: steer
    at all layers at once. save: check that the vectors' files can be written. find: gives the file
    of a name.

    Raises:
        UsageError: a spec with numbers, a repeated vector or coefficient, or a percentage of a
            low-rank edit.
        VectorError: a vector cannot be read, or lacks a layer.
    """
    if rule not in RULES:
        raise UsageError(f"{rule!r} is not a rule", hint="use budget or refusal_direction")
    if isinstance(vectors, (str, Path, SteeringVector)):
        vectors = [vectors]
    specs = [
        SteerSpec(item.name) if isinstance(item, SteeringVector) else _spec(str(item))
        for item in vectors
    ]
    if len({(spec, id(item) if isinstance(item, SteeringVector) else 0)
            for spec, item in zip(specs, vectors, strict=True)}) < len(specs):  # fmt: skip
        raise UsageError("a vector twice, by the same op")
    for spec, item in zip(specs, vectors, strict=True):
        if save and not isinstance(item, SteeringVector):
            _check_savable(spec.reference)
    rows = []
    for spec, item in zip(specs, vectors, strict=True):
        vector = item if isinstance(item, SteeringVector) else store.read(find(spec.reference))
        _ = vector.metadata.activation_site  # a learned token has none
        op = spec.op or recommended_operation(vector.metadata)
        columns = _coefficients(coefficients, vector, op, rule)
        scope = spec.scope or replace(
            usual_scope(vector.metadata, op), skip_special=spec.skip_special
        )
        for chosen in _layers(layers, vector, together=together):
            reference = without_passwords(spec.reference)  # reports show it
            row = GridRow(vector, chosen, columns, reference, op, scope)
            row.steer(0)  # raises before the model is loaded
            rows.append(row)
        if layers is None and coefficients is None and rule == "budget" and not together:
            rows += _calibrated(vector, without_passwords(spec.reference), op, scope)
    return Grid(tuple(rows))


def _calibrated(
    vector: SteeringVector, reference: str, op: Operation, scope: Scope
) -> list[GridRow]:
    """A row of all layers that the file of a calibrated vector recommends together, with
    coefficients from a tenth to twice the recommended one."""
    recommended = vector.metadata.recommended
    is_alike = op.name == "add" == recommended.op_name and recommended.unit == "vector"
    plain_vector = not vector.metadata.rank and vector.metadata.method.name != "distill"
    if len(recommended.layers) < 2 or not (is_alike and plain_vector and recommended.coefficient):
        return []
    columns = tuple(Coefficient(float(f"{recommended.coefficient * m:.3g}")) for m in MULTIPLES)
    return [GridRow(vector, recommended.layers, columns, reference, op, scope)]


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
        # The other rule needs all scores.
        limit = None if exhaustive or limits.rule != "budget" else limits.kl
        left_out: tuple[str, ...] = ()
        steps = _Sweep(on, _SweepProgress(progress, limits.kl), note)
        if limit is not None:
            grid, left_out = steps.keep_promising(grid, limit)
        grid, scores = steps.scored(grid, limit)
        more = finer(grid, scores, limits.kl) if limits.rule == "budget" else None
        if more is not None:
            more, second = steps.scored(more, limit)
            grid, scores = Grid(grid.rows + more.rows), join_scores(scores, second)
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
                len(left_out),
                twice=not quick,
                on_progress=on_share,
            )
    every = data.held_out.all_texts

    def finish() -> None:
        for each in steps.journals:
            each.finish()

    return SweepResult(
        model=model.identity,
        described=model.describe(),
        grid=grid,
        budget=limits,
        writing=task.writing,
        verdict=verdict,
        unsteered=tuple(model.decode(text.ids) for text in on.own[:6]),
        chosen_on=overlap.sketch(every) if every else None,
        left_out=left_out,
        idle=tuple(steps.idle),
        guidance=tuple(guided),
        command=command,
        finish=finish,
    )


def _fit_to_time(
    seconds: float, model: Model, grid: Grid, data: Data, note: Warn
) -> tuple[Grid, Data]:
    """As much of a sweep as fits into a time, by an estimate."""
    held_out = data.held_out
    texts = held_out.all_texts
    n_items = len(texts) // (1 if held_out.pairs is None else 2)
    # Four characters a token, and what a template adds.
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


@dataclass(frozen=True)
class _SweepProgress:
    """Progress of a sweep, with a picture of the cells so far: those above `max_kl` in
    brackets."""

    progress: Progress
    max_kl: float


@dataclass
class _Sweep:
    """The state of a sweep. journals: of every step. idle: names of the rows without any
    effect."""

    bench: Bench
    shown: _SweepProgress
    note: Warn
    journals: list[Journal] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)

    def keep_promising(self, grid: Grid, max_kl: float) -> tuple[Grid, tuple[str, ...]]:
        """A grid of the promising rows, and the names of the others.

        Most of many layers have little effect within a budget; three coefficients on some of the
        texts show which.
        """
        pilot_grid = pilot(grid)
        if pilot_grid is None:
            return grid, ()
        n_texts = self.bench.n_items, len(self.bench.unrelated)
        n = n_looks(min(n_texts))
        items, unrelated = (looks(size, n)[0] for size in n_texts)
        scores, rows = self._scores_of(pilot_grid, None, self.bench.part(items, unrelated))
        grid = grid.part(rows)
        kept = promising_rows(scores.part(rows), max_kl)
        names = grid.labels()
        others = tuple(name for index, name in enumerate(names) if index not in kept)
        if others:
            going_on = ", ".join(names[row] for row in kept)
            self.note(f"{len(kept)} of {len(names)} rows go on: {going_on}")
        return grid.part(kept), others

    def scored(self, grid: Grid, max_kl: float | None) -> tuple[Grid, Scores]:
        """The rows of a grid that change a scored token, and their scores.

        Raises:
            IdleError: no row does.
        """
        scores, rows = self._scores_of(grid, max_kl, self.bench)
        return grid.part(rows), scores.part(rows)

    def _scores_of(
        self, grid: Grid, max_kl: float | None, texts: Bench
    ) -> tuple[Scores, list[int]]:
        """The scores of a grid, and the indices of the rows that change a scored token."""
        self.journals.append(journal(texts.model, grid, texts))
        if len(self.journals[-1]):
            self.note("resuming an interrupted sweep")
        scores: Scores | None = None
        n_cells, done = len(grid.rows) * grid.n_columns, 0.0
        with self.shown.progress("scoring", n_cells) as advance:

            def on_progress(activity: str, share: float) -> None:
                nonlocal done
                picture = partial(_heat_map, grid, scores, self.shown.max_kl)
                advance(share * n_cells - done, activity, picture)
                done = share * n_cells

            for so_far in run(texts, grid, self.journals[-1], on_progress, max_kl):
                scores = so_far
        assert scores is not None
        rows, names = acting_rows(grid, scores), grid.labels()
        for row in sorted(scores.idle):
            self.note(f"{names[row]} is left out: nothing changes there in what is scored")
            self.idle.append(names[row])
        return scores, rows


def _heat_map(grid: Grid, scores: Scores | None, max_kl: float, width: int) -> Any:
    return heat_map(grid, scores, max_kl, width=width)


def _n_written(task: Task) -> int:
    both = task.held_out.pairs is None and task.held_out.texts is None
    return task.writing.samples * (2 if both else 1)


@dataclass(frozen=True)
class SweepResult:
    """The result of `sweep`: every cell with its scores, the choice, and its evidence.

    described: the model, its device and dtype. writing: the settings of generated texts. unsteered:
    some of the unsteered model's texts. chosen_on: short hashes of the held-out texts. left_out:
    rows that were dropped after a first look. idle: rows that change no scored token. guidance: the
    condition as live guidance, at each strength, on the same items. command: the command that
    reproduces it, if known. finish: call it once the result is stored; it removes the journal.
    """

    model: ModelIdentity
    described: str
    grid: Grid
    budget: Budget
    writing: TextSettings
    verdict: Verdict
    unsteered: tuple[str, ...]
    chosen_on: str | None = None
    left_out: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()
    guidance: tuple[GuidanceRow, ...] = ()
    command: str = ""
    finish: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)

    @property
    def recommended(self) -> Steer | None:
        """The recommended steer; None if there is none, for which `reason` gives the cause."""
        verdict = self.verdict
        if verdict.position is None or not verdict.recommended:
            return None
        return self.grid.steer(*verdict.position)

    @property
    def reason(self) -> str | None:
        """Why nothing is recommended."""
        return self.verdict.reason

    def cell(self, position: Position) -> dict[str, Any]:
        """One cell as plain JSON. typed: in the grammar of `-v`. items: how many it was scored on.
        refused: whether it is excluded because of its texts."""
        row, tried, scores = self.grid.rows[position[0]], self.verdict.tried, self.verdict.scores
        return {
            "vector": str(row),
            "layers": format_layers(row.layers),
            "coefficient": str(row.coefficients[position[1]]),
            "typed": row.typed(position[1]),
            "effect": plain(scores.effect_at(*position)),
            "kl": plain(scores.cost_at(*position)),
            "items": scores.n_items(*position),
            "refused": tried is not None and position in tried.refused,
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON, as `steer sweep --json` prints it. `cells` go row by row."""
        grid, verdict = self.grid, self.verdict
        scores = verdict.scores
        positions = [(r, c) for r in range(len(grid.rows)) for c in range(grid.n_columns)]
        vectors = {row.reference: row.vector for row in grid.rows}
        position, tried, again = verdict.position, verdict.tried, verdict.again
        return {
            "command": self.command,
            "model": self.model.id,
            "fingerprint": self.model.fingerprint,
            "vectors": [
                {"reference": reference, "name": vector.name, "sha256": vector.sha256}
                for reference, vector in vectors.items()
            ],
            "effect": scores.kind,
            "seed": self.writing.seed,
            "budget": asdict(self.budget),
            "n": {
                "items": int(scores.effect.shape[-1]),
                "unrelated": len(scores.counts),
                "texts": self.writing.samples,
            },
            "rows": grid.labels(),
            "coefficients": [list(map(str, row.coefficients)) for row in grid.rows],
            "left_out": list(self.left_out),
            "idle": list(self.idle),
            "guidance": [
                {"strength": row.strength, "effect": plain(row.effect), "kl": plain(row.kl)}
                for row in self.guidance
            ],
            "cells": [self.cell(each) for each in positions],
            "front": [self.cell(each) for each in verdict.front],
            "recommended": verdict.recommended,
            "reason": verdict.reason,
            "choice": None if position is None else self.cell(position),
            "random_effects": list(verdict.random),
            "chance": verdict.chance,
            "margin": plain(verdict.margin),
            "extra_nats": plain(tried.extra_nats if tried else None),
            "distinct": plain(tried.distinct if tried else None),
            "again": again and {"seed": again.seed, "extra_nats": plain(again.extra_nats)},
            "stable": verdict.stable,
            "instability": verdict.instability or None,
            "wrong_way": list(verdict.wrong_way),
            "shifts": None if position is None else scores.effect[position].tolist(),
            "samples": list(tried.samples) if tried else [],
            "shortlist": [
                self.cell(tried.position)
                | {
                    "shift": None if math.isnan(tried.shift) else tried.shift,
                    "extra_nats": plain(tried.extra_nats),
                    "distinct": plain(tried.distinct),
                    "samples": list(tried.samples),
                }
                for tried in verdict.shortlist
            ],
            "unsteered_samples": list(self.unsteered),
        }

    def recommended_vector(self) -> SteeringVector:
        """The vector with the choice as its recommendation, which a plain `-v NAME` uses.

        Raises:
            InputError: nothing is recommended.
        """
        verdict, grid = self.verdict, self.grid
        if not verdict.recommended:
            raise InputError(f"nothing to recommend: {verdict.reason}")
        position, scores = verdict.position, verdict.scores
        assert position is not None
        row = grid.rows[position[0]]
        coefficient = row.coefficients[position[1]]
        n = int(scores.effect.shape[-1])
        evidence = [
            f"sweep of {len(grid.rows)} x {grid.n_columns} cells",
            f"{scores.kind} {scores.effect_at(*position)} on {n} held-out items",
            f"random directions at most {max(verdict.random):.2f} ({len(verdict.random)} seeds)",
            f"KL {scores.cost_at(*position).value:.3f} nats per token (at most {self.budget.kl:g})",
            _stability(verdict.stable, verdict.instability),
            f"seed {self.writing.seed}",
        ]
        recommended = Recommendation(
            layers=row.layers,
            coefficient=coefficient.value,
            unit=coefficient.unit,
            op=str(row.op),
            scope=self._saved_scope(row),
            chosen_on=self.chosen_on,
            limit=self._limit(*position),
            evidence="; ".join(evidence),
        )
        vector = row.vector
        metadata = msgspec.structs.replace(vector.metadata, recommended=recommended)
        return SteeringVector(metadata, vector.directions, vector.down, vector.up)

    def _limit(self, row: int, column: int) -> float | None:
        """The nearest coefficient further out than the chosen one that costs more than the budget:
        by KL on unrelated texts, or by the extra nats of its own texts, where those were read."""
        coefficients = self.grid.rows[row].coefficients
        chosen, tried = coefficients[column], self.verdict.tried
        refused = tried.refused if tried else frozenset()
        _, costs = self.verdict.scores.looks()
        too_costly = [
            coefficient.value
            for index, coefficient in enumerate(coefficients)
            if coefficient.unit == chosen.unit
            and coefficient.value / (chosen.value or math.nan) > 1
            and (costs[row, index] > self.budget.kl or (row, index) in refused)
        ]
        return min(too_costly, key=abs, default=None)

    @staticmethod
    def _saved_scope(row: GridRow) -> str | None:
        """The scope to store in a file; None if it is the vector's default."""
        metadata = row.vector.metadata
        without = msgspec.structs.replace(metadata.recommended, scope=None)
        usual = usual_scope(msgspec.structs.replace(metadata, recommended=without))
        return None if row.scope == usual else str(row.scope)

    def save(self, warn: Warn = warn_python) -> Path | None:
        """Write the recommendation into the vector's file; None if a file cannot represent it.

        Raises:
            InputError: nothing is recommended.
            VectorError: the file has changed since the sweep began.
        """
        position = self.verdict.position
        if position is not None and self.verdict.recommended:
            row = self.grid.rows[position[0]]
            if not can_be_saved(self._saved_scope(row)):
                warn(f"a vector file cannot recommend the scope of {row}: nothing was saved")
                return None
        vector = self.recommended_vector()
        assert position is not None
        row = self.grid.rows[position[0]]
        path = store.find(row.reference)
        store.check_own(path)
        if store.read(path).sha256 != row.vector.sha256:
            raise VectorError(f"{path} has changed since the sweep began", hint="run it again")
        store.write(path, vector, force=True)
        return path

    def hint(self) -> str:
        """A hint for when nothing is recommended: the nearest cell."""
        position, tried = self.verdict.position, self.verdict.tried
        if position is None:
            return "check the vector and its sign with `steer show`"
        cell = self.cell(position)
        nats = f", extra nats {tried.extra_nats.value:.3f}" if tried else ""
        return (
            f"the nearest cell is {cell['typed']}: effect {cell['effect']['value']:.2f}, KL"
            f" {cell['kl']['value']:.3g}{nats}"
        )

    def to_pandas(self) -> Any:
        """A pandas frame: a line for each cell, with effect and KL (value, low, high).

        Raises:
            UsageError: pandas is not installed.
        """
        return frame(
            {name: value for name, value in cell.items() if name not in ("effect", "kl")}
            | {f"effect_{end}": cell["effect"][end] for end in cell["effect"] or ()}
            | {f"kl_{end}": cell["kl"][end] for end in cell["kl"] or ()}
            for cell in self.to_dict()["cells"]
        )

    def plot(self) -> Any:
        """A matplotlib figure: effect and cost by layer and coefficient, and the front.

        Raises:
            UsageError: matplotlib is not installed.
        """
        from steer.measures import pictures

        return pictures.figure(self.to_dict())

    def picture(self, kind: str) -> bytes:
        """The figure of `plot` as a file. kind: `png`, `pdf` or `svg`.

        Raises:
            UsageError: matplotlib is not installed.
        """
        from steer.measures import pictures

        return pictures.draw(self.to_dict(), kind)

    def report(self) -> str:
        """One self-contained HTML page with everything.

        Raises:
            UsageError: matplotlib is not installed.
        """
        from steer.measures import report

        return report.page(self.to_dict())

    def view(self, width: int) -> Iterator[Any]:
        """Every cell, the front and the recommendation, for a terminal: lines of text and rich
        tables."""
        result, verdict, scores = self.to_dict(), self.verdict, self.verdict.scores
        choice = verdict.position if verdict.recommended else None
        yield heat_map(self.grid, scores, self.budget.kl, choice=choice, width=width)
        yield ""
        chosen = "; *: the choice" * bool(choice)
        yield f"in brackets: KL above {self.budget.kl:g} nats per token{chosen}"
        n, n_items = result["n"], [cell["items"] for cell in result["cells"]]
        some = [items for items in n_items if items < n["items"]]
        if some:
            least = str(min(some)) if min(some) == max(some) else f"{min(some)} to {max(some)}"
            yield worded(
                f"{LOOKED}, and most in brackets: dropped after {least} of {n['items']} items"
                f" ({len(some)} of {len(n_items)} cells); --exhaustive scores all"
            )
        if self.left_out:
            n_seen = len(looks(n["items"], n_looks(n["items"]))[0])
            yield worded(
                f"dropped after three coefficients on {n_seen} items, with less than 40 % of the"
                f" best row's effect: {', '.join(self.left_out)}; --exhaustive scores all"
            )
        if self.idle:
            yield f"left out, as nothing changes there: {', '.join(self.idle)}"
        yield ""

        def mark(cell: dict[str, Any]) -> str:
            return LOOKED if cell["items"] < n["items"] else " "

        yield table(
            ["front", "effect", "KL"],
            [
                [
                    cell["typed"],
                    _interval(cell["effect"]) + mark(cell),
                    _interval(cell["kl"], 3) + mark(cell),
                ]
                for cell in result["front"][-FRONT:]
            ],
        )
        yield ""
        if self.guidance:
            yield table(
                ["baseline", "effect", "KL"],
                [
                    [f"condition guided ×{row['strength']:g}", _interval(row["effect"]),
                     _interval(row["kl"], 3)]
                    for row in result["guidance"]
                ],
            )  # fmt: skip
            yield ""
        yield from _shortlist(result["shortlist"])
        if verdict.recommended:
            yield from _recommendation(result)
        yield (
            f"{self.described} · {n['items']} held-out items, {n['unrelated']} unrelated texts,"
            f" seed {result['seed']} · 95 % intervals in brackets"
        )
        if self.command:
            yield f"again: {self.command}"

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        yield from in_console(self.view(options.max_width))

    def _repr_html_(self) -> str:
        return in_notebook(self)


def strongest(grid: Grid) -> list[Steer]:
    """The strongest steer of each row, to prepare an engine, which does not depend on strength."""

    def amount(steer: Steer) -> float:
        return abs(steer.coefficient.value)

    rows = grid.rows
    return [max((row.steer(i) for i in range(len(row.coefficients))), key=amount) for row in rows]


def _shortlist(cells: Sequence[dict[str, Any]]) -> Iterator[Any]:
    """Lines with the model's texts under the choice and its rivals, to choose by eye."""
    if len(cells) < 2:
        return
    rows = [
        [
            cell["typed"],
            _interval(cell["effect"]),
            "–" if cell["shift"] is None else f"{cell['shift']:.2f}",
            f"{cell['extra_nats']['value']:.2f}",
            f"{cell['distinct']['value']:.2f}",
        ]
        for cell in cells
    ]
    yield table(["shortlist", "effect", "shift", "extra nats", "distinct-2"], rows)
    for cell in cells:
        for text in cell["samples"][:2]:
            yield f"  {cell['typed']}: {' '.join(text.split())[:160]}"
    yield (
        "shift: how far the generated texts move towards the positive side, as the unsteered model"
        " reads them; 1 is the distance of the two sides"
    )
    yield ""


def _recommendation(result: dict[str, Any]) -> Iterator[str]:
    """Lines about the recommendation and its evidence."""
    choice, n, budget = result["choice"], result["n"], result["budget"]
    yield f"recommended: {choice['typed']}"
    yield (
        f"  {result['effect']} {_interval(choice['effect'])}; random directions of this length"
        f" {min(result['random_effects']):.2f} to {max(result['random_effects']):.2f}"
        f" ({len(result['random_effects'])} seeds), at their best layer up to"
        f" {result['chance']:.2f}"
    )
    yield (
        f"  KL {_interval(choice['kl'], 3)}; extra nats {_interval(result['extra_nats'])} and"
        f" distinct-2 {_interval(result['distinct'])} of {n['texts']} generated texts"
    )
    n_out = sum(
        cell["refused"]
        and cell["kl"]["value"] <= budget["kl"]
        and cell["effect"]["value"] > choice["effect"]["value"]
        for cell in result["cells"]
    )
    if n_out:
        too_many = f"{budget['nats']:g} extra nats"
        yield f"  {n_out} of the cells are stronger, but have more than {too_many}"
    wrong = result["wrong_way"]
    which = ", ".join(str(index + 1) for index in wrong[:8])
    items = "pairs" if result["effect"] == "preference" else "texts"
    worst = f", the worst first: {which}" if wrong else ""
    yield f"  {len(wrong)} of {n['items']} {items} move the wrong way{worst}"
    if (again := result["again"]) is not None:
        yield f"  texts with seed {again['seed']}: extra nats {_interval(again['extra_nats'])}"
    if result["stable"]:
        yield (
            "  stable: each half of the items, one with texts of that seed, gives a neighbouring"
            " layer and a similar effect"
        )
    else:
        yield f"  {_stability(result['stable'], result['instability'])}"


def _stability(stable: bool | None, instability: str | None) -> str:
    if stable is None:
        return f"stability unknown: {instability}"
    return "stable" if stable else f"unstable: {instability}"


def _interval(interval: dict[str, float] | None, digits: int = 2) -> str:
    if interval is None:
        return "–"
    value, low, high = (f"{interval[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _check_savable(reference: str) -> None:
    if is_url(reference):
        raise UsageError(
            f"--save needs a file on this machine, but {reference} is elsewhere",
            hint=f"get a copy with `steer pull {reference}` and sweep that, or leave --save out",
        )
    path = store.find(reference)
    store.check_own(path)
    check_writable(path, force=True)


def _spec(text: str) -> SteerSpec:
    parsed = parse(text)
    if parsed.coefficient is not None or parsed.layers is not None:
        raise UsageError(
            f"{text!r}: a sweep chooses layers and coefficients itself",
            hint="use --coefficients and --layers",
        )
    if parsed.schedule != CONSTANT:
        raise UsageError(
            f"{text!r}: a sweep steers all tokens of its scope alike",
            hint="measure schedules with `steer eval`",
        )
    return parsed


def _coefficients(
    typed: str | Sequence[float | str] | None, vector: SteeringVector, op: Operation, rule: str
) -> tuple[Coefficient, ...]:
    if typed is None:
        chosen = default_coefficients(vector, op)
    else:
        parts = typed.split(",") if isinstance(typed, str) else [str(part) for part in typed]
        chosen = tuple(parse_coefficient(part.strip(), part) for part in parts)
    if rule == "refusal_direction" and all(each.value > 0 for each in chosen):
        chosen += tuple(Coefficient(-each.value, each.unit) for each in chosen)
    if len(set(chosen)) < len(chosen):
        raise UsageError(f"a coefficient twice in {typed!r}")
    if any(each.unit == "residual" for each in chosen) and vector.metadata.rank:
        raise UsageError(
            f"vector {vector.name!r} is a low-rank edit, which has no single length",
            hint="write multiples of it, such as 0.5,1,1.5",
        )
    return chosen


def _layers(
    typed: str | Sequence[int] | None, vector: SteeringVector, *, together: bool
) -> tuple[tuple[int, ...], ...]:
    metadata = vector.metadata
    layers = metadata.layers
    if typed is not None:
        layers = parse_layers(typed) if isinstance(typed, str) else tuple(sorted(set(typed)))
    metadata.check_layers(layers)
    # A distilled edit of several layers is meant to act at all of them.
    if together or (metadata.method.name == "distill" and typed is None):
        return (layers,)
    return tuple((layer,) for layer in layers)
