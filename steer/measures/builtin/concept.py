"""How far the generated texts show the concept."""

from __future__ import annotations

from steer.base.intervals import Interval, rate
from steer.measures.measure import Baselines, Measure, Observations


def compute(row: Observations, _: Baselines) -> Interval | None:
    """The judge's rate over the generated texts; None without a judge."""
    return None if row.concept is None else rate(*row.by_cell(row.concept))


MEASURE = Measure(
    name="concept",
    title="concept",
    unit="share",
    format="{:.0%}",
    meaning="how far the generated texts show it",
    order=5,
    compute=compute,
)
