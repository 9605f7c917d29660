"""What `steer suite` prints when it is done."""

from __future__ import annotations

from typing import Any

from steer.cli import output
from steer.suite.table import told as interval


def show(described: str, told: dict[str, Any]) -> None:
    """Every row, and then each method over all subjects."""
    rows = told["rows"]
    for subject in dict.fromkeys(row["subject"] for row in rows):
        own = [row for row in rows if row["subject"] == subject]
        exact = any(row.get("concept") for row in own)
        heads = [subject, *(["its words", "of the prompt"] if exact else [])]
        cells = [
            [
                row["method"],
                *((_cell(row, "concept"), _cell(row, "of_prompt")) if exact else ()),
                _cell(row, "recovery"),
                interval(row.get("kl"), "{:.3f}"),
                _cell(row, "extra_nats"),
                row["choice"] or ("" if row.get("distinct") else "nothing within the budget"),
            ]
            for row in own
        ]
        output.table([*heads, "recovery", "KL", "extra nats", "at"], cells)
        output.line()
    several = [
        [
            one["method"],
            str(one["n"]),
            *(_number(one[name]) for name in ("of_prompt", "recovery", "worst")),
            _number(one["kl"], 3),
            _number(one["extra_nats"]),
        ]
        for one in told["summary"]
    ]
    heads = ["means", "n", "of the prompt", "recovery", "worst", "KL", "extra nats"]
    output.table(heads, several)
    output.line()
    output.line(f"{described} · in brackets 95 % bootstrap intervals")
    output.line(f"again: {told['command']}")


def _cell(row: dict[str, Any], name: str) -> str:
    return interval(row.get(name))


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
