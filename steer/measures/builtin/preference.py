"""How far the preference for the positive ending changes."""

from __future__ import annotations

from steer.base.intervals import Interval, mean
from steer.measures.formulas import shifts
from steer.measures.measure import Baselines, Measure, Observations


def compute(row: Observations, baselines: Baselines) -> Interval | None:
    """Mean change of log p(positive) - log p(negative), in nats; None without pairs."""
    pair_shifts = shifts(row, baselines)
    return None if pair_shifts is None or row.kind == "unsteered" else mean(pair_shifts)


MEASURE = Measure(
    name="preference",
    title="preference",
    unit="nats",
    format="{:.2f}",
    meaning="nats by which the positive ending gains on the negative one",
    order=1,
    compute=compute,
)
