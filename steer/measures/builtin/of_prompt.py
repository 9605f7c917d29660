"""The concept's rate beside the condition as a prompt."""

from __future__ import annotations

from steer.base.intervals import Interval, rate, share_of_gap
from steer.measures.measure import Baselines, Measure, Observations, cut


def compute(row: Observations, baselines: Baselines) -> Interval | None:
    """0 is the unsteered rate, 1 that of the prompt; None where the prompt does not raise it."""
    base = baselines.unsteered.concept
    prompt = None if baselines.prompt is None else baselines.prompt.concept
    if row.concept is None or base is None or prompt is None:
        return None
    own, base, prompt = cut(row.concept, base, prompt)
    low, high = (float(hits.sum() / max(n.sum(), 1e-9)) for hits, n in (base, prompt))
    if not high > low:
        return None
    share = share_of_gap(own, base, prompt)
    if len(row.starts) > 1:  # widen it by the choice of random directions
        spread = rate(*row.by_cell(row.concept))
        ends = ((end - low) / (high - low) for end in (spread.low, spread.high))
        share = Interval(share.value, min(share.low, next(ends)), max(share.high, next(ends)))
    return share


MEASURE = Measure(
    name="of_prompt",
    title="of the prompt",
    unit="share of the prompt's effect",
    format="{:.2f}",
    meaning="the concept's rate on a scale where 0 is unsteered and 1 the condition as a prompt",
    order=6,
    compute=compute,
)
