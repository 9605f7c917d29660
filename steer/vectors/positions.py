"""Positions: the tokens of a passage that are read, as users name them and files record them.

last        the last token of the input: of the text, or of what a template puts after it
first       the first token of the text
mean        the mean over the text; for pairs, from the first token in which the two sides differ
completion  the mean over a text that completes a prompt
-1, 3       one token of the text and of what follows it, counted from the end, or from 0
-3:, 1:4    the mean over a span of those tokens
after:WORD  the mean over the tokens after the last WORD of the passage
suffix      each token that a chat template puts after the text, one vector each; files record
            them as -1, -2 and so on
"""

from __future__ import annotations

import re
from typing import NamedTuple

from steer.base.errors import UsageError

NAMES = ("last", "first", "mean", "completion")
SUFFIX = "suffix"
_AFTER = "after:"
_SPAN = re.compile(r"(-?\d{1,9})?(:)?(-?\d{1,9})?")
_HINT = "use last, first, mean, completion, suffix, an index (-1), a span (-3:) or after:WORD"


class Position(NamedTuple):
    """One position. `name` is one of `NAMES`, `index`, `span` or `after`.

    start, stop: of a span, as in Python's slices; an index has only `start`.
    """

    name: str
    start: int | None = None
    stop: int | None = None
    marker: str = ""

    def __str__(self) -> str:
        if self.name == "index":
            return str(self.start)
        if self.name == "span":
            return ":".join("" if end is None else str(end) for end in (self.start, self.stop))
        return _AFTER + self.marker if self.name == "after" else self.name


def parse(text: str) -> Position:
    """Parse one position.

    Raises:
        UsageError: the text is not a position.
    """
    if text in NAMES:
        return Position(text)
    if text.startswith(_AFTER) and len(text) > len(_AFTER):
        return Position("after", marker=text.removeprefix(_AFTER))
    match = _SPAN.fullmatch(text)
    if not match or not text or text == ":":
        raise UsageError(f"{text!r} is not a position", hint=_HINT)
    start, stop = (None if end is None else int(end) for end in match.group(1, 3))
    if not match[2]:
        return Position("index", start)
    if start is not None and stop is not None and (start < 0) == (stop < 0) and stop <= start:
        raise UsageError(f"positions {text!r} hold no token", hint="write START:STOP, as in -3:")
    return Position("span", start, stop)


def parse_list(text: str) -> tuple[Position | None, ...]:
    """Parse positions separated by commas; None stands for `suffix`.

    Raises:
        UsageError: a part is not a position, or occurs twice.
    """
    parts = [part.strip() for part in text.split(",")]
    positions = [None if part == SUFFIX else parse(part) for part in parts]
    if len(set(positions)) < len(positions):
        raise UsageError(f"{text!r} names a position twice")
    return tuple(positions)
