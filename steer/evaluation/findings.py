"""A sweep that is done, as plain numbers and as the words that go into a vector file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from steer.base.intervals import plain
from steer.evaluation.choice import Budget
from steer.evaluation.verdict import Verdict
from steer.evaluation.written import Writing
from steer.measures.grids import Place, Plan
from steer.vectors.metadata import Recommended
from steer.vectors.provenance import ModelIdentity
from steer.vectors.sites import format_layers
from steer.vectors.vector import SteeringVector


@dataclass(frozen=True)
class Findings:
    """Everything that a sweep found. own: some of the unsteered model's texts."""

    model: ModelIdentity
    plan: Plan
    budget: Budget
    writing: Writing
    verdict: Verdict
    own: tuple[str, ...]

    def cell(self, place: Place) -> dict[str, Any]:
        """One cell, as plain JSON. typed: what `-v` takes. items: how many it was scored on.
        refused: out because of its texts."""
        row, tried, grid = self.plan.rows[place[0]], self.verdict.tried, self.verdict.grid
        return {
            "vector": str(row),
            "layers": format_layers(row.layers),
            "coefficient": str(row.coefficients[place[1]]),
            "typed": row.typed(place[1]),
            "effect": plain(grid.effect_at(*place)),
            "kl": plain(grid.cost_at(*place)),
            "items": grid.n_items(*place),
            "refused": tried is not None and place in tried.refused,
        }

    def as_json(self, command: str) -> dict[str, Any]:
        """All of it, as plain JSON. `cells` go row by row."""
        plan, verdict = self.plan, self.verdict
        grid = verdict.grid
        places = [(r, c) for r in range(len(plan.rows)) for c in range(plan.n_columns)]
        vectors = {row.reference: row.vector for row in plan.rows}
        place, tried, again = verdict.place, verdict.tried, verdict.again
        return {
            "command": command,
            "model": self.model.id,
            "fingerprint": self.model.fingerprint,
            "vectors": [
                {"reference": reference, "name": one.name, "sha256": one.sha256}
                for reference, one in vectors.items()
            ],
            "effect": grid.kind,
            "seed": self.writing.seed,
            "budget": asdict(self.budget),
            "n": {
                "items": int(grid.effect.shape[-1]),
                "unrelated": len(grid.counts),
                "texts": self.writing.samples,
            },
            "rows": plan.labels(),
            "coefficients": [list(map(str, row.coefficients)) for row in plan.rows],
            "cells": [self.cell(one) for one in places],
            "front": [self.cell(one) for one in verdict.front],
            "recommended": verdict.recommended,
            "reason": verdict.reason,
            "choice": None if place is None else self.cell(place),
            "random_effects": list(verdict.random),
            "chance": verdict.chance,
            "margin": plain(verdict.margin),
            "extra_nats": plain(tried.extra_nats if tried else None),
            "distinct": plain(tried.distinct if tried else None),
            "again": again and {"seed": again.seed, "extra_nats": plain(again.extra_nats)},
            "stable": verdict.stable,
            "instability": verdict.instability or None,
            "wrong_way": list(verdict.wrong_way),
            "shifts": None if place is None else grid.effect[place].tolist(),
            "samples": list(tried.samples) if tried else [],
            "unsteered_samples": list(self.own),
        }

    def recommending(self) -> SteeringVector:
        """The vector with the choice and its evidence, so that `-v NAME` needs no number."""
        verdict, plan = self.verdict, self.plan
        place, grid = verdict.place, verdict.grid
        assert place is not None
        row = plan.rows[place[0]]
        coefficient = row.coefficients[place[1]]
        n = int(grid.effect.shape[-1])
        told = [
            f"sweep of {len(plan.rows)} x {plan.n_columns} cells",
            f"{grid.kind} {grid.effect_at(*place)} on {n} held-out items",
            f"random directions at most {max(verdict.random):.2f} ({len(verdict.random)} seeds)",
            f"KL {grid.cost_at(*place).value:.3f} nats per token (at most {self.budget.kl:g})",
            "stable" if verdict.stable else f"unstable: {verdict.instability}",
            f"seed {self.writing.seed}",
        ]
        recommended = Recommended(
            layers=row.layers,
            coefficient=coefficient.value,
            unit=coefficient.unit,
            op=str(row.op),
            evidence="; ".join(told),
        )
        vector = row.vector
        metadata = msgspec.structs.replace(vector.metadata, recommended=recommended)
        return SteeringVector(metadata, vector.directions, vector.down, vector.up)
