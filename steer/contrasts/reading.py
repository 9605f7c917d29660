"""Which tokens of a passage are read: positions as spans of token indices. No tensors."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from steer.base.errors import InputError
from steer.contrasts.contrasts import Contrasts
from steer.vectors.positions import SUFFIX, Position


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of a passage; `text_start` to `text_stop` (without) are those of its text.

    stop: where the last token of all ends, without what the tokenizer itself appends. after: of
    each marker that was looked for and found, the first token after it.
    """

    ids: Sequence[int]
    text_start: int
    text_stop: int
    stop: int
    after: tuple[tuple[str, int], ...] = ()


class TokensOfMany(Sequence[Tokens]):
    """Tokens of many passages, in flat arrays: a list of objects takes several times the memory."""

    def __init__(self, passages: Iterable[Tokens]) -> None:
        self._ids = array("i")
        self._numbers = array("i")  # where the ids end, text_start, text_stop and stop of each
        self._after: dict[int, tuple[tuple[str, int], ...]] = {}
        for index, one in enumerate(passages):
            self._ids.extend(one.ids)
            self._numbers.extend((len(self._ids), one.text_start, one.text_stop, one.stop))
            if one.after:
                self._after[index] = one.after

    def __len__(self) -> int:
        return len(self._numbers) // 4

    def __getitem__(self, index: Any) -> Any:
        place = range(len(self))[index]
        end, text_start, text_stop, stop = self._numbers[4 * place : 4 * place + 4]
        begin = self._numbers[4 * place - 4] if place else 0
        after = self._after.get(place, ())
        return Tokens(self._ids[begin:end], text_start, text_stop, stop, after)


@dataclass(frozen=True, slots=True)
class Reading:
    """Token ids to run, and spans, start to stop (without), each of which is averaged over."""

    ids: Sequence[int]
    spans: tuple[tuple[int, int], ...]


class Readings(Sequence[Reading]):
    """What to read of the positive side, then of the negative one: a span for each position.

    `from_difference`, for pairs: `mean` begins at the first token in which the two sides differ (if
    one is the beginning of the other, at its last token), else at the first token of the text.

    Raises:
        InputError: a passage has no token at a position.
    """

    def __init__(
        self,
        positive: Sequence[Tokens],
        negative: Sequence[Tokens],
        positions: Sequence[Position],
        *,
        from_difference: bool,
    ) -> None:
        self._sides = positive, negative
        self._spans = array("i")  # flat, as the tokens are
        self._n_spans = len(positions)
        for side, others in ((positive, negative), (negative, positive)):
            name = "positive" if side is positive else "negative"
            for number, tokens in enumerate(side):
                start = tokens.text_start
                if from_difference:
                    start = first_difference(tokens, others[number])
                subject = f"{name} text {number + 1}"
                spans = (_span(tokens, one, start, subject) for one in positions)
                self._spans.extend(chain.from_iterable(spans))

    def __len__(self) -> int:
        return sum(map(len, self._sides))

    def __getitem__(self, index: Any) -> Any:
        place = range(len(self))[index]
        positive, negative = self._sides
        n = len(positive)
        tokens = positive[place] if place < n else negative[place - n]
        first = 2 * self._n_spans * place
        flat = self._spans[first : first + 2 * self._n_spans]
        return Reading(tokens.ids, tuple(zip(flat[::2], flat[1::2], strict=True)))


def default_position(contrasts: Contrasts) -> Position:
    """Where contrasts of this form carry their direction best.

    Over the tokens that differ or that follow the condition: one token alone often ends in a full
    stop that says nothing. Of what a user says to a chat model, or what a template asks about in
    words of its own, the last token before the answer, where the model has made up its mind (Arditi
    et al. 2024, arXiv 2406.11717, section 2.3).
    """
    passages = chain(contrasts.positive, contrasts.negative)
    asked = all(
        passage.role == "user" or any(map(str.isalnum, passage.suffix)) for passage in passages
    )
    return Position("last" if asked else "mean")


def check_positions(contrasts: Contrasts, positions: Sequence[Position | None]) -> None:
    """Refuse positions that the contrasts do not have, before a model is loaded.

    Raises:
        InputError: `completion`, and a text completes nothing; `suffix`, and there is none.
    """
    for position in positions:
        if position is not None and position.name == "completion" and not contrasts.completes:
            raise InputError(
                "the contrasts are no completions: nothing stands before them, or something after",
                hint="give them a prompt, or read another position",
            )
        if position is None and contrasts.positive[0].role in (None, "assistant"):
            raise InputError(
                "no template puts anything after these texts, so they have no suffix",
                hint=f"{SUFFIX} is for what a user says to a chat model; pass --chat",
            )


def first_difference(tokens: Tokens, other: Tokens) -> int:
    """The first token in which a passage differs from another, or the last of its text."""
    return min(shared_prefix(tokens.ids, other.ids), tokens.text_stop - 1)


def suffix_length(passages: Sequence[Tokens]) -> int:
    """How many tokens a template puts after the text of every passage."""
    return min(tokens.stop - tokens.text_stop for tokens in passages)


def _span(tokens: Tokens, position: Position, mean_start: int, subject: str) -> tuple[int, int]:
    # What indices and spans count: the text and what follows it.
    start, stop = tokens.text_start, tokens.stop
    if position.name == "mean":
        start, stop = mean_start, tokens.text_stop
    elif position.name == "completion":
        stop = tokens.text_stop
    elif position.name == "after":
        start = dict(tokens.after).get(position.marker, stop)
    elif position.name == "span":
        first, last, _ = slice(position.start, position.stop).indices(stop - start)
        start, stop = start + first, start + last
    else:
        index = {"first": 0, "last": -1}.get(position.name, position.start)
        assert index is not None
        start = start + index if index >= 0 else max(stop + index, start - 1)
        stop = start + 1 if tokens.text_start <= start < stop else start
    if start >= stop:
        where, has = f"at position {position}", f": it has {tokens.stop - tokens.text_start}"
        if position.name == "after":
            where, has = f"after {position.marker!r}", ""
        raise InputError(
            f"{subject} has no token {where}{has}", hint="leave it out, or read another position"
        )
    return start, stop


def shared_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))
