"""A sweep as tables of rich's: effects by layer and coefficient, on a terminal with colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from steer.measures.grids import Grid, Scores

#: From weak to strong; also in grey, and for the colour-blind, each is darker than the next.
RAMP = ("#00224e", "#2a3f6d", "#575d6d", "#7d7c78", "#a59c74", "#d2c060", "#fee838")
#: As many of them are dark, and want white ink.
DARK = 3
#: Columns of a terminal that a cell takes with two decimals, and that the rows' names take.
CELL, NAMES = 7, 12
#: Behind a cell that was scored on some of the texts.
LOOKED = "~"


def heat_map(
    grid: Grid,
    scores: Scores | None,
    max_kl: float,
    *,
    choice: tuple[int, int] | None = None,
    width: int = 200,
    caption: str | None = None,
) -> Group:
    """Layers down, coefficients across. What costs more than the budget is in brackets; else what
    was scored on some of the texts is marked.

    scores: None before the first row is there; NaN in it is yet to come. width: of the terminal; in
    a narrow one numbers have a decimal less, and coefficients stand in several parts.
    """
    import numpy as np
    from rich.console import Group
    from rich.text import Text

    shape = len(grid.rows), grid.n_columns
    effects = costs = np.full(shape, np.nan)
    looked = np.zeros(shape, dtype=bool)
    if scores is not None:
        effects, costs = scores.looks()
        looked = ~scores.whole()
    # What has an effect and not yet a cost is still to come.
    effects = np.where(np.isnan(costs), np.nan, effects)
    within = effects[(costs <= max_kl) & (effects > 0)]
    top = float(within.max()) if within.size else math.inf
    decimals = 2 if NAMES + CELL * grid.n_columns <= width else 1
    names = max(len(label) for label in grid.labels()) + 3
    fitting = max(1, (width - max(names, NAMES)) // (CELL - 2 + decimals))
    # A percentage stands over the digits, as a number's bracket closes behind them.
    heads = [[f"{one} " for one in row.coefficients] for row in grid.rows]

    def cell(row: int, column: int) -> Text:
        return _cell(
            float(effects[row, column]),
            within=bool(costs[row, column] <= max_kl),
            looked=bool(looked[row, column]),
            share=float(effects[row, column]) / top,
            chosen=choice == (row, column),
            decimals=decimals,
        )

    parts: list[Any] = []
    for start in range(0, grid.n_columns, fitting):
        columns = range(start, min(start + fitting, grid.n_columns))
        part = _part(scores.kind if scores else "", [heads[0][c] for c in columns], decimals)
        for row, label in enumerate(grid.labels()):
            if row and heads[row] != heads[row - 1]:
                part.add_row("", *(heads[row][column] for column in columns), style="bold")
            part.add_row(Text(f"{label} "), *(cell(row, column) for column in columns))
        parts += [part] if not start else ["", part]
    return Group(*parts, *([Text(caption, style="dim italic")] if caption else []))


def _part(kind: str, heads: Sequence[str], decimals: int) -> Table:
    """An empty table with a column for each coefficient."""
    from rich.table import Table

    part = Table(box=None, pad_edge=False, padding=(0, 0, 0, 0), header_style="bold")
    part.add_column(f"{kind}  ", no_wrap=True)
    for head in heads:
        part.add_column(head, justify="right", no_wrap=True, min_width=CELL - 4 + decimals)
    return part


def _cell(
    effect: float, *, within: bool, looked: bool, share: float, chosen: bool, decimals: int
) -> Text:
    from rich.text import Text

    if math.isnan(effect):
        return Text("·  ", style="dim")
    number = f"{effect:.{decimals}f}" if abs(effect) < 10 else f"{effect:.0f}"
    room = " " * (decimals - 1)
    if not within:
        return Text(f"{room}({number})", style="dim")
    mark = "*" if chosen else LOOKED if looked else " "
    shade = RAMP[min(len(RAMP) - 1, max(0, int(share * len(RAMP))))]
    ink = "#ffffff" if RAMP.index(shade) < DARK else "#000000"
    weight = "bold " if chosen else ""
    return Text(f"{room} {number}{mark}", style=f"{weight}{ink} on {shade}")
