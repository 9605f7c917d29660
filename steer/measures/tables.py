"""Results as rich tables and lines of text, for a terminal or a notebook."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from steer.base.files import shown
from steer.base.tables import NOTHING as NOTHING
from steer.base.tables import Rows

#: A line of text, or what rich prints.
Piece: TypeAlias = Any


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> Rows:
    """Rows under headings; the first `left` columns are words, the others numbers."""
    return Rows(columns, rows, left=left)


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
