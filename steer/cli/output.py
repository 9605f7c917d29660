"""The only place that writes: results to stdout, everything else to stderr.

Colour and bars appear on a terminal alone (rich sees to it, and to NO_COLOR). Text that comes from
a model or a file is never read as markup, and cannot send control sequences to a terminal.
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

#: Width of tables that are not for a terminal: each row is a line, and nothing in it is cut.
_TABLE_WIDTH = 10_000
#: Width of running text that is not for a terminal, where `$COLUMNS` says nothing.
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
    """One line about what is going on, on stderr."""
    _console(stderr=True).print(shown(message), style="dim", soft_wrap=True)


def warning(message: str) -> None:
    """Something that the user should know, on stderr."""
    _console(stderr=True).print(f"warning: {shown(message)}", style="yellow", soft_wrap=True)


class _Shown(logging.Handler):
    """Shows what the library logs."""

    def emit(self, record: logging.LogRecord) -> None:
        (warning if record.levelno >= logging.WARNING else note)(record.getMessage())


def show_log() -> None:
    """From now on what the library logs is shown on stderr."""
    log = logging.getLogger("steer")
    if not any(isinstance(handler, _Shown) for handler in log.handlers):
        log.addHandler(_Shown())
        log.propagate = False


def error(message: str, *, hint: str | None = None) -> None:
    """Why it did not work and what to do, on stderr."""
    console = _console(stderr=True)
    console.print(f"error: {shown(message)}", style="red", soft_wrap=True)
    if hint:
        console.print(f"hint: {shown(hint)}", soft_wrap=True)


def line(text: str = "") -> None:
    """One line of the result, without control sequences."""
    write(shown(text) + "\n")


def write(text: str) -> None:
    """A piece of the result as it is, but on a terminal without control sequences."""
    sys.stdout.write(shown(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def heading(text: str) -> None:
    """What the next part of the result belongs to."""
    from rich.text import Text

    _console(stderr=False).print(Text(shown(text), style="bold"), soft_wrap=True)


def has_colour() -> bool:
    """Whether the result goes to somebody who sees colours."""
    console = _console(stderr=False)
    return console.is_terminal and console.color_system is not None and not console.no_color


def styled(pieces: Iterable[tuple[str, str]]) -> None:
    """A line or more of text, each piece in its style."""
    from rich.text import Text

    text = Text()
    for piece, style in pieces:
        text.append(shown(piece), style)
    _console(stderr=False).print(text)


def command(text: str) -> None:
    """A command, shown above what it prints."""
    heading(f"$ {text}")


def as_json(value: Any) -> None:
    """The result as one JSON object."""
    plain = codecs.lookup(sys.stdout.encoding).name != "utf-8"
    write(escaped(json.dumps(value, indent=2, ensure_ascii=plain, allow_nan=False)) + "\n")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> None:
    """Rows under headings; the first `left` columns are words, the others numbers."""
    show(Rows(columns, rows, left=left))


def cells(title: str, texts: Sequence[str]) -> None:
    """Short texts beside each other under a title, on stderr, in as many columns as there is room
    for."""
    from rich.columns import Columns
    from rich.text import Text

    console = _console(stderr=True)
    console.print(shown(title), style="dim", soft_wrap=True)
    console.print(Columns([Text(shown(text)) for text in texts], padding=(0, 2)))


def beside(titles: tuple[str, str], texts: tuple[str, str]) -> None:
    """Two texts side by side, or one above the other where the terminal is narrow."""
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
    """Columns that text may take on stdout."""
    return _console(stderr=False).width


def table_width() -> int:
    """Columns that a table may take on stdout."""
    console = _console(stderr=False)
    return console.width if console.is_terminal else _TABLE_WIDTH


def show(drawing: RenderableType) -> None:
    """A drawing of rich's, as part of the result."""
    console = _console(stderr=False)
    console.width = table_width()
    console.print(drawing)


@contextmanager
def status(what: str) -> Iterator[None]:
    """A sign of life on stderr while the block runs: a spinner on a terminal, elsewhere a line if
    it takes more than a few seconds."""
    console = _console(stderr=True)
    if not console.is_terminal:
        with slow(note, what):
            yield
        return
    with console.status(shown(what)):
        yield


@contextmanager
def progress(what: str, total: int) -> Iterator[Advance]:
    """A phase of long work on stderr: a bar with the time left on a terminal, with a picture where
    the work has one; lines elsewhere.

    It is the `steer.base.progress.Progress` that library functions take.
    """
    console = _console(stderr=True)
    if not console.is_terminal:
        with Lines(note)(what, total) as advance:
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
    task = bar.add_task(shown(what), total=total)
    with Live(bar, console=console, transient=True) as screen, _above(console):

        def move(count: float, note: str | None = None, picture: Picture | None = None) -> None:
            described = None if note is None else shown(f"{what}, {note}" if note else what)
            bar.update(task, advance=count, description=described)
            screen.update(bar if picture is None else Group(picture(console.width), bar))

        yield move


#: The console of the bar that is on the screen, above which notes are printed.
_bars: list[Console] = []


@contextmanager
def _above(console: Console) -> Iterator[None]:
    _bars.append(console)
    try:
        yield
    finally:
        _bars.remove(console)
