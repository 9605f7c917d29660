"""The only module that writes to the terminal: results to stdout, everything else to stderr.

Colours and progress bars appear only on a terminal; rich takes care of that, and of NO_COLOR. Text
from a model or a file is never interpreted as markup, and cannot send control sequences to a
terminal.
"""

from __future__ import annotations

import codecs
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from steer.base.files import escaped, shown
from steer.base.progress import Advance, Lines, Picture, slow
from steer.base.tables import NOTHING as NOTHING
from steer.base.tables import Rows

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

#: Width of tables that do not go to a terminal: each row is one line, and no cell is cut.
_TABLE_WIDTH = 10_000
#: Width of running text that does not go to a terminal, if `$COLUMNS` is not set.
_TEXT_WIDTH = 100


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    if stderr and _bars:
        return _bars[-1]
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        columns = os.environ.get("COLUMNS", "")
        console.width = int(columns) if columns.isdecimal() and int(columns) else _TEXT_WIDTH
    return console


def note(message: str) -> None:
    """Print one line about the work in progress to stderr."""
    _console(stderr=True).print(shown(message), style="dim", soft_wrap=True)


def warning(message: str) -> None:
    """Print a warning to stderr."""
    _console(stderr=True).print(f"warning: {shown(message)}", style="yellow", soft_wrap=True)


class _LogPrinter(logging.Handler):
    """Prints the log records of the library."""

    def emit(self, record: logging.LogRecord) -> None:
        (warning if record.levelno >= logging.WARNING else note)(record.getMessage())


def show_log() -> None:
    """Print the log records of the library to stderr from now on."""
    log = logging.getLogger("steer")
    if not any(isinstance(handler, _LogPrinter) for handler in log.handlers):
        log.addHandler(_LogPrinter())
        log.propagate = False


def error(message: str, *, hint: str | None = None) -> None:
    """Print an error, and a hint about what to do, to stderr."""
    console = _console(stderr=True)
    console.print(f"error: {shown(message)}", style="red", soft_wrap=True)
    if hint:
        console.print(f"hint: {shown(hint)}", soft_wrap=True)


def line(text: str = "") -> None:
    """Print one line of the result, without control sequences."""
    write(shown(text) + "\n")


def write(text: str) -> None:
    """Write a part of the result unchanged, except that a terminal gets no control sequences."""
    sys.stdout.write(shown(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


class Stream:
    """Writes a text to stdout while it is generated, without blanks at its beginning."""

    def __init__(self, *, show: bool = True) -> None:
        self._show = show
        self._begun = False

    def write(self, piece: str) -> None:
        """Write the next piece of the text."""
        piece = piece if self._begun else piece.lstrip()
        self._begun = self._begun or bool(piece)
        if self._show:
            write(piece)

    def end(self) -> None:
        """End the line, if any text was written."""
        if self._begun and self._show:
            line()


def heading(text: str) -> None:
    """Print the heading of the next part of the result."""
    from rich.text import Text

    _console(stderr=False).print(Text(shown(text), style="bold"), soft_wrap=True)


def has_colour() -> bool:
    """Whether the result goes to a terminal with colours."""
    console = _console(stderr=False)
    return console.is_terminal and console.color_system is not None and not console.no_color


def styled(pieces: Iterable[tuple[str, str]]) -> None:
    """Print a line or more of text, each piece in its own style."""
    from rich.text import Text

    text = Text()
    for piece, style in pieces:
        text.append(shown(piece), style)
    _console(stderr=False).print(text)


def command(text: str) -> None:
    """Print a command line above its output."""
    heading(f"$ {text}")


def as_json(value: Any) -> None:
    """Print the result as one JSON object."""
    _json(value, indent=2)


def json_line(value: Any) -> None:
    """Print one of several results as a JSON object in one line."""
    _json(value, indent=None)


def _json(value: Any, indent: int | None) -> None:
    plain = codecs.lookup(sys.stdout.encoding).name != "utf-8"
    write(escaped(json.dumps(value, indent=indent, ensure_ascii=plain, allow_nan=False)) + "\n")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> None:
    """Print rows under headings. The first `left` columns are aligned left, the others right."""
    show(Rows(columns, rows, left=left))


def cells(title: str, texts: Sequence[str]) -> None:
    """Print short texts under a title to stderr, in as many columns as fit."""
    from rich.columns import Columns
    from rich.text import Text

    console = _console(stderr=True)
    console.print(shown(title), style="dim", soft_wrap=True)
    console.print(Columns([Text(shown(text)) for text in texts], padding=(0, 2)))


def beside(titles: tuple[str, str], texts: tuple[str, str]) -> None:
    """Print two texts side by side, or one above the other on a narrow terminal."""
    from rich.table import Table
    from rich.text import Text

    console = _console(stderr=False)
    cells = [Text(shown(text.strip())) for text in texts]
    if console.width < 70:
        for title, cell in zip(titles, cells, strict=True):
            console.print(Text(shown(title), style="bold"))
            console.print(cell)
            console.print()
        return
    grid = Table(box=None, pad_edge=False, padding=(0, 3, 1, 0), header_style="bold", expand=True)
    for title in titles:
        grid.add_column(Text(shown(title)), ratio=1, overflow="fold")
    grid.add_row(*cells)
    console.print(grid)


def width() -> int:
    """The width of text on stdout, in columns."""
    return _console(stderr=False).width


def table_width() -> int:
    """The width of tables on stdout, in columns."""
    console = _console(stderr=False)
    return console.width if console.is_terminal else _TABLE_WIDTH


def show(drawing: RenderableType) -> None:
    """Print a rich renderable as part of the result."""
    console = _console(stderr=False)
    console.width = table_width()
    console.print(drawing)


@contextmanager
def status(activity: str) -> Iterator[None]:
    """Show an activity on stderr while the block runs: a spinner on a terminal, otherwise a line if
    it takes more than a few seconds."""
    console = _console(stderr=True)
    if not console.is_terminal:
        with slow(note, activity):
            yield
        return
    with console.status(shown(activity)):
        yield


@contextmanager
def progress(activity: str, total: int) -> Iterator[Advance]:
    """Show the progress of long work on stderr: on a terminal a bar with the time left, and a
    picture if the work supplies one; otherwise lines.

    This function is a `steer.base.progress.Progress`, which library functions take.
    """
    console = _console(stderr=True)
    if not console.is_terminal:
        with Lines(note)(activity, total) as advance:
            yield advance
        return
    from rich.console import Group
    from rich.live import Live
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bar = Progress(*columns, TimeRemainingColumn(), console=console)
    task = bar.add_task(shown(activity), total=total)
    with Live(bar, console=console, transient=True) as screen, _above(console):

        def move(count: float, note: str | None = None, picture: Picture | None = None) -> None:
            text = None if note is None else shown(f"{activity}, {note}" if note else activity)
            bar.update(task, advance=count, description=text)
            screen.update(bar if picture is None else Group(picture(console.width), bar))

        yield move


#: The consoles of visible progress bars; notes are printed above the last one.
_bars: list[Console] = []


@contextmanager
def _above(console: Console) -> Iterator[None]:
    _bars.append(console)
    try:
        yield
    finally:
        _bars.remove(console)
