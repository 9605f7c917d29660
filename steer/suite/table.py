"""The rows of a suite as tables: every row, and what each method comes to over all subjects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

#: What each column of the summary is the mean of.
MEANS = {"of_prompt": "of the prompt's effect", "recovery": "recovery", "kl": "KL"}
Rows = Sequence[dict[str, Any]]


def summary(rows: Rows) -> list[dict[str, Any]]:
    """Means over the subjects of each method, in the order of the rows, as plain JSON.

    worst: the smallest share of the prompt's effect on the concept (or else recovery). n: subjects
    that it was tried on. failed: those where no cell was within the budget; they count as 0.
    """
    made = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        failed = [row for row in own if row.get("recovery") is None]
        effect = "of_prompt" if any(row.get("of_prompt") for row in own) else "recovery"
        made.append(
            {
                "method": method,
                "n": len(own),
                "failed": len(failed),
                "of_prompt": _mean(own, "of_prompt"),
                "recovery": _mean(own, "recovery"),
                "worst": min((_value(row, effect) for row in own), default=None),
                "kl": _mean(own, "kl"),
                "extra_nats": _mean(own, "extra_nats"),
            }
        )
    return made


def _value(row: dict[str, Any], name: str) -> float:
    found = row.get(name)
    return 0.0 if found is None else float(found["value"])


def _mean(rows: Rows, name: str) -> float | None:
    if not any(row.get(name) for row in rows):
        return None
    return float(np.mean([_value(row, name) for row in rows]))


def told(interval: dict[str, float] | None, style: str = "{:.2f}") -> str:
    """An interval as the table shows it."""
    if interval is None:
        return "–"
    value, low, high = (style.format(interval[key]) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
