"""A sweep that is done, as plain numbers and as the words that go into a vector file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from steer.evaluation.verdict import Budget, Place, Verdict
from steer.evaluation.written import Writing
from steer.intervals import plain
from steer.measures.grids import Grid, Plan
from steer.sites import format_layers
from steer.vectors.metadata import Recommended
from steer.vectors.provenance import ModelIdentity
from steer.vectors.vector import SteeringVector


@dataclass(frozen=True)
class Findings:
    """Everything that a sweep found. own: some of the unsteered model's texts."""

    model: ModelIdentity
    plan: Plan
    budget: Budget
    writing: Writing
    grid: Grid
    verdict: Verdict
    own: tuple[str, ...]

    def cell(self, place: Place) -> dict[str, Any]:
        """One cell, as plain JSON."""
        return {
            "layers": format_layers(self.plan.layers[place[0]]),
            "coefficient": str(self.plan.coefficients[place[1]]),
            "effect": plain(self.grid.effect_at(*place)),
            "kl": plain(self.grid.cost_at(*place)),
        }

    def as_json(self, command: str) -> dict[str, Any]:
        """All of it, as plain JSON. `cells` go row by row."""
        grid, plan, verdict = self.grid, self.plan, self.verdict
        n_rows, n_columns = len(plan.layers), len(plan.coefficients)
        places = [(row, column) for row in range(n_rows) for column in range(n_columns)]
        place, tried = verdict.place, verdict.tried
        return {
            "command": command,
            "model": self.model.id,
            "fingerprint": self.model.fingerprint,
            "vector": plan.vector.name,
            "vector_sha256": plan.vector.sha256,
            "effect": grid.kind,
            "seed": self.writing.seed,
            "budget": asdict(self.budget),
            "n": {
                "items": int(grid.effect.shape[-1]),
                "unrelated": len(grid.counts),
                "texts": self.writing.samples,
            },
            "layers": [format_layers(one) for one in plan.layers],
            "coefficients": [str(one) for one in plan.coefficients],
            "cells": [self.cell(one) for one in places],
            "front": [self.cell(one) for one in verdict.front],
            "recommended": verdict.recommended,
            "reason": verdict.reason,
            "choice": None if place is None else self.cell(place),
            "random_effects": list(verdict.random),
            "margin": plain(verdict.margin),
            "extra_nats": plain(tried.extra_nats if tried else None),
            "distinct": plain(tried.distinct if tried else None),
            "stable": verdict.stable,
            "instability": verdict.instability or None,
            "wrong_way": list(verdict.wrong_way),
            "shifts": None if place is None else grid.effect[place].tolist(),
            "samples": list(tried.samples) if tried else [],
            "unsteered_samples": list(self.own),
        }

    def recommending(self) -> SteeringVector:
        """The vector with the choice and its evidence, so that `-v NAME` needs no number."""
        place, verdict, grid, plan = self.verdict.place, self.verdict, self.grid, self.plan
        assert place is not None
        coefficient = plan.coefficients[place[1]]
        n = int(grid.effect.shape[-1])
        told = [
            f"sweep of {len(plan.layers)} x {len(plan.coefficients)} cells",
            f"{grid.kind} {grid.effect_at(*place)} on {n} held-out items",
            f"random directions at most {max(verdict.random):.2f}",
            f"KL {grid.cost_at(*place).value:.3f} nats per token (at most {self.budget.kl:g})",
            "stable" if verdict.stable else f"unstable: {verdict.instability}",
            f"seed {self.writing.seed}",
        ]
        recommended = Recommended(
            layers=plan.layers[place[0]],
            coefficient=coefficient.value,
            unit=coefficient.unit,
            evidence="; ".join(told),
        )
        vector = plan.vector
        metadata = msgspec.structs.replace(vector.metadata, recommended=recommended)
        return SteeringVector(metadata, vector.directions, vector.down, vector.up)
