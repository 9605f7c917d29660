"""A descent from a random start, which chooses its layer by short runs."""

from __future__ import annotations

from collections.abc import Sequence

from steer.base.progress import Progress
from steer.distillation.descent import Item, Objective, candidates, descended
from steer.distillation.distilled import spreads
from steer.distillation.lowrank import Edits
from steer.distillation.settings import RANK, DistillSettings, Schedule
from steer.vectors.sites import Site


def search(
    task: Objective[Item], settings: DistillSettings, progress: Progress
) -> tuple[Edits, int]:
    """Descend at the layers of the settings, or at the one with the best short run.

    Returns the edits, and the step of the kept state.
    """
    start = None if settings.scope == "response" else 0
    spread = spreads(task.model, task.read, start=start)
    rank = RANK if settings.rank is None else settings.rank

    def run(layers: Sequence[int], schedule: Schedule, activity: str) -> tuple[Edits, float, int]:
        here = {Site(layer): spread[Site(layer)] for layer in layers}
        edits = Edits(task.model, here, rank, settings.seed, start=start)
        return edits, *descended(task, edits, schedule, activity, progress)

    every = tuple(site.layer for site in spread)
    layers = every if settings.layers == () else settings.layers
    if layers is None:
        layers = (
            max(
                candidates(every),
                key=lambda layer: run((layer,), settings.search, f"trying layer {layer}")[1],
            ),
        )
    edits, _, best_step = run(layers, settings.schedule, "descending")
    return edits, best_step
