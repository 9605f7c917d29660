"""The result of a sweep: every cell with its scores, the choice, and its views."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from steer.base.errors import InputError, VectorError
from steer.base.intervals import plain
from steer.base.wording import worded
from steer.evaluation.bench import GuidanceRow
from steer.evaluation.choice import Budget
from steer.evaluation.data import Warn, warn_python
from steer.evaluation.evaluations import frame
from steer.evaluation.verdict import Verdict
from steer.evaluation.written import TextSettings
from steer.measures.elimination import looks, n_looks
from steer.measures.grids import Grid, GridRow, Position
from steer.measures.heat import LOOKED, heat_map
from steer.measures.tables import in_console, in_notebook, table
from steer.steering.steers import Steer, usual_scope
from steer.vectors import store
from steer.vectors.metadata import Recommendation, can_be_saved
from steer.vectors.provenance import ModelIdentity
from steer.vectors.sites import format_layers
from steer.vectors.vector import SteeringVector

#: How many cells of the front are shown, the strongest.
FRONT = 8


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
