"""How much less likely the generated texts are under the unsteered model than its own."""

from __future__ import annotations

from steer.base.intervals import Interval, difference
from steer.measures.measure import Baselines, Measure, Observations, cut


def compute(row: Observations, baselines: Baselines) -> Interval | None:
    """Nats per token of the row's texts under the unsteered model, minus those of its own texts."""
    if row.kind == "unsteered":
        return None
    if len(row.starts) > 1:
        return difference(row.by_cell(row.nats), row.by_cell(baselines.unsteered.nats))
    own, base = cut(row.nats, baselines.unsteered.nats)
    return difference(own, base)


MEASURE = Measure(
    name="extra_nats",
    title="extra nats",
    unit="nats per token",
    format="{:.2f}",
    meaning="extra cost of the generated texts under the unsteered model, per token",
    order=8,
    compute=compute,
)
