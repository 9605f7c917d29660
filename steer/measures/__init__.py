"""Measures, grids of cells, choices, pictures and tables. No torch.

To add a measure, write a `Measure` (docs/extending.md).
"""

from __future__ import annotations

from steer.measures.measure import Baselines as Baselines
from steer.measures.measure import Measure as Measure
from steer.measures.measure import Observations as Observations
from steer.measures.registry import measures as measures
