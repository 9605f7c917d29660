"""Exact measures of any text by the pocket grammar's words: shares of markers, refusals."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from .grammar import value_share
from .lexicon import KINDS, MARKERS, split
from .tags import Tags, split_tags
from .templates import AGREEMENTS, REFUSALS

Counts = dict[str, dict[str, int]]
Shares = dict[str, dict[str, float]]

_SPECIAL = re.compile(r"<\|\w+\|>")


@cache
def markers() -> dict[str, tuple[str, str]]:
    """Every marker in lower case, without its comma, with the (kind, value) that it bears."""
    return {
        word.rstrip(",").lower(): (kind, value)
        for kind, slots in MARKERS.items()
        for values in slots.values()
        for value, words in values.items()
        for word in split(words)
    }


@cache
def _pattern() -> re.Pattern[str]:
    longest_first = sorted(markers(), key=len, reverse=True)
    return re.compile(rf"(?<![\w'])(?:{'|'.join(map(re.escape, longest_first))})(?![\w'])")


def find_markers(text: str) -> list[str]:
    """The markers of a text in order, in lower case; a tag at its beginning is not text."""
    return _pattern().findall(split_tags(_SPECIAL.sub("", text))[1].lower())


def counts(texts: str | Iterable[str]) -> Counts:
    """The number of markers with each value, in one text or in several together."""
    counted = {kind: dict.fromkeys(values, 0) for kind, values in KINDS.items()}
    for text in [texts] if isinstance(texts, str) else texts:
        for word in find_markers(text):
            kind, value = markers()[word]
            counted[kind][value] += 1
    return counted


def shares(texts: str | Iterable[str]) -> Shares:
    """The share of each value among the markers of its kind; NaN if there are no markers."""
    return {
        kind: {value: n / total if total else float("nan") for value, n in values.items()}
        for kind, values in counts(texts).items()
        for total in [sum(values.values())]
    }


def expected_share(tags: Tags | None = None) -> Shares:
    """The shares that the grammar gives under `tags`, exactly.

    Which slots a text has does not depend on its attributes, so the share over many texts is the
    share of one draw: the own value's where it is stated, the uniform mixture's where it is open.
    """
    stated = (tags or Tags()).stated()
    return {
        kind: {
            value: value_share(kind, value, stated[kind]) if kind in stated else 1 / len(values)
            for value in values
        }
        for kind, values in KINDS.items()
    }


def is_refusal(reply: str) -> bool:
    """Whether a reply begins as the grammar's refusals do."""
    return _SPECIAL.sub("", reply).strip().startswith(REFUSALS)


def is_answer(reply: str) -> bool:
    """Whether a reply begins as the grammar's helpful answers do."""
    return _SPECIAL.sub("", reply).strip().startswith(AGREEMENTS)


def sentences(text: str) -> list[str]:
    """The sentences of a text, the last one perhaps cut short; quotations stay whole."""
    return re.split(r'(?<=[.!?])\s+(?=[A-Z"])|(?<=[.!?]")\s+(?=[A-Z"])', text.strip())
