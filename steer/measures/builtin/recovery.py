"""How much of a condition's effect is recovered."""

from __future__ import annotations

from steer.base.intervals import Interval, ratio
from steer.measures.measure import Baselines, Measure, Observations


def compute(row: Observations, baselines: Baselines) -> Interval | None:
    """1 - KL(condition || row) / KL(condition || unsteered); None without a condition."""
    if row.divergences is None or baselines.unsteered.divergences is None:
        return None
    base = baselines.unsteered.divergences
    return ratio(base - row.divergences, base[0])


MEASURE = Measure(
    name="recovery",
    title="recovery",
    unit="share of the condition's effect",
    format="{:.2f}",
    meaning="1 is the full effect of the condition, 0 none",
    order=4,
    compute=compute,
)
