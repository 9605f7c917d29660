"""Results as rich tables and lines of text, for a terminal or a notebook."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from steer.base.files import shown

if TYPE_CHECKING:
    from rich.table import Table

    #: A line of text, or a table.
    Piece = str | Table

#: Shown where there is no number.
NOTHING = "–"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> Table:
    """Rows under headings; the first `left` columns are words, the others numbers."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, column in enumerate(columns):
        grid.add_column(column, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(shown(cell)) for cell in row))
    return grid


def interval_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> Iterator[Piece]:
    """Rows of a name and numbers such as `0.50 [0.40, 0.60]`, as a table if it fits `width`, if
    need be with the intervals below their numbers; else as a line for each number."""

    def fits(columns: Sequence[Sequence[str]]) -> bool:
        lengths = (
            [len(line) for cell in column for line in cell.split("\n")] for column in columns
        )
        return sum(2 + max(lines) for lines in lengths) <= width + 2

    stacked = [[name, *(cell.replace(" [", "\n[") for cell in numbers)] for name, *numbers in rows]
    for tried in (rows, stacked):
        if fits(list(zip(heads, *tried, strict=True))):
            yield table(heads, tried)
            return
    if heads[0]:
        yield heads[0]
    for name, *numbers in rows:
        yield name
        for head, number in zip(heads[1:], numbers, strict=True):
            if number not in ("", NOTHING):
                yield f"  {head:<14}{number}"


def in_console(pieces: Iterable[Piece]) -> Iterator[Any]:
    """The pieces of a view in a form that rich prints."""
    from rich.text import Text

    for piece in pieces:
        yield Text(shown(piece)) if isinstance(piece, str) else piece


def in_notebook(result: Any) -> str:
    """A result as HTML, in the form that a wide terminal shows."""
    from io import StringIO

    from rich.console import Console

    console = Console(width=160, file=StringIO(), record=True, force_jupyter=False)
    console.print(result)
    text = console.export_html(
        inline_styles=True, code_format='<pre style="line-height:1.3">{code}</pre>'
    )
    return text if "<pre" in text else f"<pre>{html.escape(text)}</pre>"
