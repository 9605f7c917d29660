"""Generated text, as it grows and when it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class TextDeltas:
    """Turns token ids that arrive one by one into pieces of text to show.

    All ids so far are decoded each time and the difference is shown: one token alone may be half a
    character, or lose its space. What could still change is held back: half a character, and the
    beginning of a stop string. What was shown, joined, is `cut` of the whole text.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = stop
        self._ids: list[int] = []
        self._shown = 0

    def push(self, token: int) -> str:
        """The text that this token completes, perhaps empty."""
        self._ids.append(token)
        text = self._decode(self._ids)
        end = len(cut(text, self._stop))
        if end == len(text):
            end -= _unsure(text, self._stop)
        return self._advance(text, end)

    def finish(self) -> str:
        """What was held back and now will not change."""
        text = cut(self._decode(self._ids), self._stop)
        return self._advance(text, len(text))

    def _advance(self, text: str, end: int) -> str:
        piece = text[self._shown : end]
        self._shown = max(self._shown, end)
        return piece


def cut(text: str, stop: Sequence[str]) -> str:
    """`text` before the first of the stop strings in it."""
    return text[: min((text.index(word) for word in stop if word in text), default=len(text))]


def _unsure(text: str, stop: Sequence[str]) -> int:
    """How many characters at the end may yet become something else."""
    unsure = 1 if text.endswith("\ufffd") else 0
    for word in stop:
        for length in range(min(len(word), len(text)), unsure, -1):
            if text.endswith(word[:length]):
                unsure = length
                break
    return unsure
