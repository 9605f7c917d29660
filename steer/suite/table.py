"""What each method of a suite comes to over all subjects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

MEASURES = ("of_prompt", "recovery", "kl", "extra_nats")
Rows = Sequence[dict[str, Any]]


def summary(rows: Rows) -> list[dict[str, Any]]:
    """Of each method, in the order of the rows, each measure over the subjects, as plain JSON.

    n: subjects that it was tried on. failed: those where no cell was within the budget; there it
    does nothing, which counts as 0.
    """
    made = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        failed = sum(row.get("recovery") is None for row in own)
        spreads = {name: _spread(own, name) for name in MEASURES}
        made.append({"method": method, "n": len(own), "failed": failed, **spreads})
    return made


def _spread(rows: Rows, name: str) -> dict[str, float] | None:
    """The median over the subjects, the lowest and the highest; None where nobody has it."""
    found = [row.get(name) for row in rows]
    if not any(found):
        return None
    values = [0.0 if one is None else float(one["value"]) for one in found]
    return {"value": float(np.median(values)), "low": min(values), "high": max(values)}
