"""The share of pairs whose preference moves towards the positive ending."""

from __future__ import annotations

from steer.base.intervals import Interval
from steer.measures.formulas import share_moved, shifts
from steer.measures.measure import Baselines, Measure, Observations


def compute(row: Observations, baselines: Baselines) -> Interval | None:
    """The share of pairs whose preference for the positive ending rises; None without pairs."""
    pair_shifts = shifts(row, baselines)
    return None if pair_shifts is None or row.kind == "unsteered" else share_moved(pair_shifts)


MEASURE = Measure(
    name="right_way",
    title="right way",
    unit="share",
    format="{:.0%}",
    meaning="share of pairs whose preference rises",
    order=2,
    compute=compute,
)
