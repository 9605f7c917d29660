"""A sweep as coloured tables in the terminal: effects by layer and coefficient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from steer.measures.grids import Grid, Scores

#: Colours from weak to strong. Lightness rises throughout, also in grey and for the colour-blind.
RAMP = ("#00224e", "#2a3f6d", "#575d6d", "#7d7c78", "#a59c74", "#d2c060", "#fee838")
#: How many of them are dark and need white text.
DARK = 3
#: Widths in characters: of a cell with two decimals, and of the rows' names.
CELL, NAMES = 7, 12
#: Marks a cell that was scored on some of the texts only.
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
    """Layers down, coefficients across. Cells above the budget are in brackets; cells within it
    that were scored on some of the texts only are marked.

    scores: None before the first row is scored. width: of the terminal; numbers in a narrow one
    have one decimal less, and coefficients are in several parts.
    """
    import numpy as np
    from rich.console import Group
    from rich.text import Text

    shape = len(grid.rows), grid.n_columns
    effects = costs = np.full(shape, np.nan)
    looked = np.zeros(shape, dtype=bool)
    if scores is not None:
        effects, costs = scores.looks()
        looked = ~scores.complete()
    # A cell with an effect but no cost yet is not complete.
    effects = np.where(np.isnan(costs), np.nan, effects)
    within = effects[(costs <= max_kl) & (effects > 0)]
    top = float(within.max()) if within.size else math.inf
    decimals = 2 if NAMES + CELL * grid.n_columns <= width else 1
    names = max(len(label) for label in grid.labels()) + 3
    fitting = max(1, (width - max(names, NAMES)) // (CELL - 2 + decimals))
    # The trailing blank aligns a percentage with the digits of a bracketed number.
    heads = [[f"{coefficient} " for coefficient in row.coefficients] for row in grid.rows]

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
