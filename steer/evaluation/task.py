"""The task of an evaluation: its rows, its data, and its journal.

The rows are the unsteered model, each vector, its opposite (for ops that have one), random
directions of its length (`N_RANDOM` seeds together), and the condition as a prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from steer import resuming
from steer.base.journal import Journal
from steer.contrasts.heldout import HeldOut
from steer.contrasts.passages import Passage
from steer.evaluation.cells import PROMPTED, UNSTEERED, Cell, GuidedCell, SteeredCell, steers_of
from steer.evaluation.written import FOR_CHOICE, TextSettings
from steer.measures.baselines import N_RANDOM, opposite, random_direction
from steer.measures.concepts import Judge
from steer.measures.measure import Kind
from steer.models.model import Model
from steer.steering.steers import Steer
from steer.vectors.vector import SteeringVector


@dataclass(frozen=True, slots=True)
class Variant:
    """A row of the table, of one cell or of several (random seeds) together."""

    label: str
    kind: Kind
    cells: tuple[Cell, ...]
    vector: str | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """The data to measure on. unrelated: texts for KL; None takes the unsteered model's own. judge:
    of the concept, if there is one.
    """

    held_out: HeldOut
    writing: TextSettings
    unrelated: tuple[Passage, ...] | None = None
    judge: Judge | None = None

    @property
    def for_choice(self) -> Task:
        """The task with other generated texts, so that a later evaluation measures on new ones."""
        return replace(self, writing=replace(self.writing, first=FOR_CHOICE))


def variants(
    steers: Sequence[Steer], *, condition: str | None, guidance: Sequence[float] = ()
) -> list[Variant]:
    """The rows of the table, in their order. guidance: strengths of the condition, live."""
    rows = [Variant("unsteered", "unsteered", (UNSTEERED,))]
    names = names_of(steers)
    for steer in steers:
        name = names[steer.vector]
        label = f"{name}{str(steer)[len(steer.vector.name) :]}"
        rows.append(Variant(label, "vector", (SteeredCell((steer,)),), name))
        if steer.is_token:  # it has no opposite, and no length that a random direction could have
            continue
        noise: tuple[Cell, ...] = tuple(
            SteeredCell((random_direction(steer, seed),)) for seed in range(N_RANDOM)
        )
        rows.append(Variant(f"{name}, random ({N_RANDOM} seeds)", "random", noise, name))
        if steer.op.op.signed:
            opposite_row = Variant(
                f"{name}, opposite", "opposite", (SteeredCell((opposite(steer),)),), name
            )
            rows.insert(-1, opposite_row)
    if condition is not None:
        rows.append(Variant("condition as prompt", "prompt", (PROMPTED,)))
        rows += [
            Variant(f"condition guided ×{strength:g}", "guidance", (GuidedCell(strength),))
            for strength in guidance
        ]
    return rows


def names_of(steers: Sequence[Steer]) -> dict[SteeringVector, str]:
    """The name of each vector in the table, with its hash if several have the same name."""
    vectors = dict.fromkeys(steer.vector for steer in steers)
    named = {(vector.name, vector.sha256) for vector in vectors}
    counts = Counter(name for name, _ in named)
    return {
        vector: vector.name if counts[vector.name] == 1 else f"{vector.name} {vector.sha256[:8]}"
        for vector in vectors
    }


def n_units(task: Task, rows: Sequence[Variant]) -> int:
    """The units of work for progress: generated texts, and texts scored under a cell."""
    n_cells = sum(len(row.cells) for row in rows)
    scored = 0
    if task.held_out.pairs is not None:
        scored += 2 * len(task.held_out.pairs.positive)
    if task.writing.conditions is not None:
        scored += len(task.held_out.texts or ()) or task.writing.samples
    scored += task.writing.samples if task.unrelated is None else len(task.unrelated)
    return n_cells * scored + len(rows) * task.writing.samples


def journal(model: Model, rows: Sequence[Variant], task: Task, engine: Sequence[str]) -> Journal:
    """The journal of an evaluation, keyed by everything that its numbers depend on.

    engine: the engine that generates texts, and its settings. Grades are not kept here: those of an
    endpoint have a journal of their own, and the other judges are fast.

    Raises:
        SteerError: the journal cannot be read or written.
    """
    return resuming.journal(
        model,
        "evaluations",
        [
            [
                [
                    type(cell).__name__,
                    *([cell.strength] if isinstance(cell, GuidedCell) else []),
                    *map(_settings_of, steers_of(cell)),
                ]
                for cell in row.cells
            ]
            for row in rows
        ],
        msgspec.to_builtins([task.held_out, task.writing, task.unrelated]),
        list(engine),
    )


def _settings_of(steer: Steer) -> list[Any]:
    """All settings of a steer as plain JSON."""
    vectors = [resuming.vector_key(vector) for vector in steer.vectors]
    parts = steer.coefficient, steer.layers, steer.op, steer.scope, steer.schedule
    gate = steer.gate
    read = gate and [str(gate), gate.threshold.value, gate.threshold.projection.layer]
    return [vectors, [repr(part) for part in parts], read]
