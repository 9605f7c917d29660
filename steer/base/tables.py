"""Tables as text, which fit the width that they get without breaking inside words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from steer.base.files import shown

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions

#: Stands where there is no number.
NOTHING = "–"
#: Blanks between columns.
_GAP = 2


class Rows:
    """Rows under headings; the first `left` columns are words, the others numbers.

    It is printed by rich. Where there is no room for whole cells, intervals such as
    `0.50 [0.40, 0.60]` stand below their numbers, then columns of words are wrapped between words,
    and at last each row is a paragraph with a line for each cell.
    """

    def __init__(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1
    ) -> None:
        self.columns = list(columns)
        self.rows = [[shown(cell) for cell in row] for row in rows]
        self.left = left

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        width = options.max_width
        stacked = [
            [*row[: self.left], *(cell.replace(" [", "\n[") for cell in row[self.left :])]
            for row in self.rows
        ]
        for rows in (self.rows, stacked):
            if self._needs(rows, 0) <= width:
                yield self._table(rows)
                return
        if self._needs(stacked, self.left) <= width:
            yield self._table(stacked, wrapped=self.left)
            return
        yield from self._paragraphs()

    def _needs(self, rows: Sequence[Sequence[str]], wrapped: int) -> int:
        """The width that the rows need where the first `wrapped` columns may break at blanks."""
        columns = zip(self.columns, *rows, strict=True)
        widths = [
            max(_width(part) for cell in column for part in _parts(cell, words=index < wrapped))
            for index, column in enumerate(columns)
        ]
        return sum(widths) + _GAP * (len(widths) - 1)

    def _table(self, rows: Sequence[Sequence[str]], wrapped: int = 0) -> Any:
        from rich.table import Table
        from rich.text import Text

        grid = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
        for index, column in enumerate(self.columns):
            cells = [column, *(row[index] for row in rows)]
            longest = max(_width(part) for cell in cells for part in _parts(cell, words=True))
            grid.add_column(
                Text(column),
                justify="left" if index < self.left else "right",
                no_wrap=index >= wrapped,
                min_width=longest if index < wrapped else None,
                overflow="fold",
            )
        for row in rows:
            grid.add_row(*map(Text, row))
        return grid

    def _paragraphs(self) -> Iterator[Any]:
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        if self.columns[0]:
            yield Text(self.columns[0], style="bold")
        for name, *cells in self.rows:
            yield Text(name)
            lines = Table.grid(padding=(0, _GAP, 0, 0))
            lines.add_column(no_wrap=True)
            lines.add_column(overflow="fold")
            for column, cell in zip(self.columns[1:], cells, strict=True):
                if cell not in ("", NOTHING):
                    lines.add_row(Text(column), Text(cell))
            yield Padding(lines, (0, 0, 0, _GAP), expand=False)


def _width(text: str) -> int:
    """The columns of a terminal that a text takes."""
    from rich.cells import cell_len

    return cell_len(text)


def _parts(cell: str, *, words: bool) -> list[str]:
    """The parts of a cell that are never broken across lines."""
    return (cell.split() if words else cell.split("\n")) or [""]
