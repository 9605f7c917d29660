"""What `steer suite` prints when it is done."""

from __future__ import annotations

from typing import Any

from steer.cli import output
from steer.suite.table import MEASURES

#: What each column shows, under its name in the table; the first two need a grammar.
COLUMNS = {
    "concept": ("its words", 2),
    "of_prompt": ("of the prompt", 2),
    "recovery": ("recovery", 2),
    "kl": ("KL", 3),
    "extra_nats": ("extra nats", 2),
}


def show(described: str, told: dict[str, Any]) -> None:
    """Every row, and then each method over all subjects."""
    rows = told["rows"]
    shown = [name for name in COLUMNS if any(row.get(name) for row in rows)]
    heads = [COLUMNS[name][0] for name in shown]
    for subject in dict.fromkeys(row["subject"] for row in rows):
        own = [row for row in rows if row["subject"] == subject]
        cells = [[row["method"], *(_cell(row, name) for name in shown), _at(row)] for row in own]
        output.intervals([subject, *heads, "at"], cells)
        output.line()
    if len({row["subject"] for row in rows}) > 1:
        _show_medians(told["summary"], [name for name in shown if name in MEASURES])
    output.line(f"{described} · in brackets 95 % intervals, in a table of all the range")
    output.line(f"again: {told['command']}")


def _show_medians(medians: list[dict[str, Any]], names: list[str]) -> None:
    heads = ["all: median [range]", *(COLUMNS[name][0] for name in names), "of"]
    cells = [[one["method"], *(_cell(one, name) for name in names), _n(one)] for one in medians]
    output.intervals(heads, cells)
    output.line()


def _cell(row: dict[str, Any], name: str) -> str:
    found = row.get(name)
    if found is None:
        return output.NOTHING
    value, low, high = (f"{found[key]:.{COLUMNS[name][1]}f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _at(row: dict[str, Any]) -> str:
    return row["choice"] or ("" if row.get("distinct") else "no effect in budget")


def _n(one: dict[str, Any]) -> str:
    return f"{one['n'] - one['failed']} of {one['n']}" if one["failed"] else str(one["n"])
