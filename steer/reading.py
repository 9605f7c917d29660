"""Which tokens of a passage are read: positions as spans of token indices. No tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steer.provenance import ContrastKind, Positions

#: Where each kind of contrast carries its direction best: over the tokens that differ or that
#: follow the condition. One token alone, `last`, often ends in a full stop that says nothing.
DEFAULT_POSITIONS: dict[ContrastKind, Positions] = {"pairs": "mean", "conditions": "mean"}


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of a passage; `text_start` to `text_stop` (without) are those of its text."""

    ids: Sequence[int]
    text_start: int
    text_stop: int


@dataclass(frozen=True, slots=True)
class Reading:
    """Token ids to run, and the span `start` to `stop` (without) whose activations are averaged."""

    ids: Sequence[int]
    start: int
    stop: int


def readings(
    positive: Tokens, negative: Tokens, kind: ContrastKind, positions: Positions
) -> tuple[Reading, Reading]:
    """What to read of the two sides of a pair.

    `last`: the last token of the text. `mean`: for conditions, the tokens of the text; for pairs,
    the first token in which the sides differ and all that follow (if one side is the beginning of
    the other, its last token).
    """
    if positions == "last":
        return _span(positive, positive.text_stop - 1), _span(negative, negative.text_stop - 1)
    if kind == "conditions":
        return _span(positive, positive.text_start), _span(negative, negative.text_start)
    start = shared_prefix(positive.ids, negative.ids)
    return _span(positive, start), _span(negative, start)


def _span(tokens: Tokens, start: int) -> Reading:
    return Reading(tokens.ids, min(start, tokens.text_stop - 1), tokens.text_stop)


def shared_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))
