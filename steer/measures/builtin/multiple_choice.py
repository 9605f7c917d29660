"""How probable the matching answer is."""

from __future__ import annotations

import numpy as np

from steer.base.intervals import Interval, rate
from steer.measures.formulas import multiple_choice
from steer.measures.measure import Baselines, Measure, Observations


def compute(row: Observations, _: Baselines) -> Interval | None:
    """Mean probability of the matching answer of the two; None where there are no two answers."""
    # Pairs without a common prompt are not answers to choose from.
    if row.preferences is None or not row.endings:
        return None
    matching = multiple_choice(row.preferences)
    return rate(matching, np.ones(matching.shape))


MEASURE = Measure(
    name="multiple_choice",
    title="matching",
    unit="share",
    format="{:.0%}",
    meaning="probability of the matching one of two answers",
    order=3,
    compute=compute,
)
