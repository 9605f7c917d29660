"""Divide a system prompt into clauses, and write some of them as a prompt of their own."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

#: Ends a clause: a line break, a sentence's end, a semicolon or a closing bracket before a space.
_END = re.compile(r"\s*\n\s*|(?<=[.!?;\]])[\"')]*\s+")
#: A comma and a conjunction within a sentence.
_CONJUNCTION = re.compile(r"(?<=,)\s+(?=(?:and|but|then)\b)", re.IGNORECASE)
_LEADING = re.compile(r"(?:and|but|then)\s+", re.IGNORECASE)
#: The fewest words on each side of a conjunction for it to divide a sentence.
LEAST_WORDS = 4


def clauses(prompt: str) -> list[str]:
    """The clauses of a prompt: sentences, lines, tags, and halves of a sentence at a conjunction.

    Joined, they are the prompt.
    """
    return [half for piece in _pieces(prompt, _END) for half in _halves(piece)]


def _pieces(text: str, pattern: re.Pattern[str]) -> list[str]:
    """The text, divided after each match."""
    ends = [
        match.end()
        for match in pattern.finditer(text)
        if match.end() < len(text) and text[: match.end()].strip()
    ]
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


def _halves(sentence: str) -> list[str]:
    """A sentence, divided before the conjunctions that have enough words on both sides."""
    halves: list[str] = []
    for piece in _pieces(sentence, _CONJUNCTION):
        if halves and min(len(piece.split()), len(halves[-1].split())) < LEAST_WORDS:
            halves[-1] += piece
        else:
            halves.append(piece)
    return halves


def kept_text(pieces: Sequence[str], kept: Collection[int]) -> str:
    """A prompt of the clauses with these indices, in their order; with all of them, the prompt
    itself.

    If only one half of a sentence is kept, it becomes a sentence of its own: it loses its
    conjunction, and gets a capital or a full stop.
    """
    if len(set(kept)) == len(pieces):
        return "".join(pieces)
    texts = []
    for index in sorted(kept):
        text = pieces[index]
        is_second = index > 0 and pieces[index - 1].rstrip().endswith(",")
        if is_second and index - 1 not in kept and (match := _LEADING.match(text)):
            text = text[match.end() :]
            text = text[:1].upper() + text[1:]
        if text.rstrip().endswith(",") and index + 1 not in kept:
            bare = text.rstrip()
            text = f"{bare[:-1]}.{text[len(bare) :]}"
        texts.append(text)
    return "".join(texts).strip()
