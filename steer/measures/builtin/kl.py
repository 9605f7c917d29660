"""How the predictions on unrelated texts change."""

from __future__ import annotations

from steer.base.intervals import Interval, ratio
from steer.measures.measure import Baselines, Measure, Observations


def compute(row: Observations, _: Baselines) -> Interval | None:
    """Mean KL(unsteered || row) per token of the unrelated texts."""
    return None if row.kind == "unsteered" else ratio(row.drifts, row.drift_tokens)


MEASURE = Measure(
    name="kl",
    title="KL",
    unit="nats per token",
    format="{:.3f}",
    meaning="change of the predictions on unrelated texts, in nats per token",
    order=7,
    compute=compute,
)
