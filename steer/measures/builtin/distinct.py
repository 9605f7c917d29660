"""How little the generated texts repeat themselves."""

from __future__ import annotations

import numpy as np

from steer.base.intervals import Interval, rate
from steer.measures.formulas import distinct
from steer.measures.measure import Baselines, Measure, Observations


def compute(row: Observations, _: Baselines) -> Interval | None:
    """The share of different bigrams in the generated texts (Li et al. 2016, arXiv 1510.03055)."""
    pairs = np.array([distinct(tokens) for tokens in row.tokens], np.float64).reshape(-1, 2)
    return rate(*row.by_cell((pairs[:, 0], pairs[:, 1])))


MEASURE = Measure(
    name="distinct",
    title="distinct-2",
    unit="share",
    format="{:.0%}",
    meaning="share of different bigrams in a text",
    order=9,
    compute=compute,
)
