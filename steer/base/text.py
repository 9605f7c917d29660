"""Texts: escapes in what is typed, and generated text as it grows and when it is done."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\"}
_ESCAPE = re.compile(r"\\([nt\\])")

#: Tokens that are decoded together, and how many of them still are when the first are let go.
WINDOW, KEPT = 16, 6


class TextDeltas:
    """Turns token ids that arrive one by one into pieces of text to show.

    The last ids are decoded each time and the difference is shown, since a single token may be half
    a character, or lose its space. Text that could still change is held back: half a character, or
    the beginning of a stop string. The pieces join to `cut` of the whole text.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = stop
        self._ids: list[int] = []
        self._shown = 0  # characters of what they say
        self._over = False

    def push(self, token: int) -> str:
        """The text that this token completes, perhaps empty."""
        self._ids.append(token)
        text = self._decode(self._ids)
        piece = text[self._shown :]
        if self._stop or piece.endswith("\ufffd"):
            piece = self._before_stop(piece)
            if not self._over:
                piece = piece[: len(piece) - _unsure(piece, self._stop)]
        self._shown += len(piece)
        if len(self._ids) > WINDOW:
            self._let_go(text)
        return piece

    def finish(self) -> str:
        """The rest of the text, which was held back."""
        return self._before_stop(self._decode(self._ids)[self._shown :])

    def _before_stop(self, piece: str) -> str:
        """The part of new text before a stop string."""
        if self._over:
            return ""
        before = cut(piece, self._stop)
        self._over = len(before) < len(piece)
        return before

    def _let_go(self, text: str) -> None:
        """Keep only the last ids, if they decode to the same text by themselves."""
        kept = self._decode(self._ids[-KEPT:])
        hidden = len(text) - self._shown
        if kept and text.endswith(kept) and "\ufffd" not in kept and hidden <= len(kept):
            self._ids = self._ids[-KEPT:]
            self._shown = len(kept) - hidden


def unescaped(text: str) -> str:
    r"""A text as it was meant when it was typed in a shell.

    `\n` is a line's end, `\t` a tab and `\\` a backslash; any other backslash stays.
    """
    return _ESCAPE.sub(lambda match: _ESCAPES[match[1]], text)


def cut(text: str, stop: Sequence[str]) -> str:
    """`text` before the first of the stop strings in it."""
    return text[: min((text.index(word) for word in stop if word in text), default=len(text))]


def _unsure(text: str, stop: Sequence[str]) -> int:
    """The number of characters at the end that could still change."""
    # A whole run of U+FFFD: some tokenizers decode several bytes together or not at all.
    unsure = len(text) - len(text.rstrip("\ufffd"))
    for word in stop:
        for length in range(min(len(word), len(text)), unsure, -1):
            if text.endswith(word[:length]):
                unsure = length
                break
    return unsure


def listed(words: Iterable[str]) -> str:
    """`a, b and c`, for messages."""
    *most, last = list(words)
    return f"{', '.join(most)} and {last}" if most else last
