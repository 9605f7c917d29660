"""Positions as spans of token indices: the tokens of a passage that are read. No tensors."""

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
    """Token ids of a passage; `text_start` to `text_stop` (exclusive) is its text.

    stop: the end of the passage (exclusive), without tokens that the tokenizer appends. after: each
    marker that occurs, with the index of the first token after it.
    """

    ids: Sequence[int]
    text_start: int
    text_stop: int
    stop: int
    after: tuple[tuple[str, int], ...] = ()


class TokensOfMany(Sequence[Tokens]):
    """Tokens of many passages in flat arrays, which take a fraction of the memory of a list."""

    def __init__(self, passages: Iterable[Tokens]) -> None:
        self._ids = array("i")
        self._numbers = array("i")  # where the ids end, text_start, text_stop and stop of each
        self._after: dict[int, tuple[tuple[str, int], ...]] = {}
        for index, tokens in enumerate(passages):
            self._ids.extend(tokens.ids)
            self._numbers.extend((len(self._ids), tokens.text_start, tokens.text_stop, tokens.stop))
            if tokens.after:
                self._after[index] = tokens.after

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
    """Token ids to run, and the spans (start, exclusive stop) to average over."""

    ids: Sequence[int]
    spans: tuple[tuple[int, int], ...]


class Readings(Sequence[Reading]):
    """The passages of the positive side, then of the negative side, with a span for each position.

    `from_difference`, for pairs: `mean` begins at the first token in which the two sides differ. If
    one side is a prefix of the other, `mean` of that side is its last token.

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
                spans = (_span(tokens, position, start, subject) for position in positions)
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
    """The position to read where the user names none.

    `mean`: over the tokens that differ or that follow the condition, since the last token alone is
    often just a full stop. `last` if the texts are a user's messages to a chat model, or if a
    template continues after the text with words of its own: there the last token before the answer
    carries the direction best (Arditi et al. 2024, arXiv 2406.11717, section 2.3).
    """
    passages = chain(contrasts.positive, contrasts.negative)
    before_answer = all(
        passage.role == "user" or any(map(str.isalnum, passage.suffix)) for passage in passages
    )
    return Position("last" if before_answer else "mean")


def check_positions(contrasts: Contrasts, positions: Sequence[Position | None]) -> None:
    """Refuse positions that the contrasts do not have, before a model is loaded.

    Raises:
        InputError: `completion` for texts that complete nothing, or `suffix` where no template adds
            one.
    """
    for position in positions:
        if position is not None and position.name == "completion" and not contrasts.completes:
            raise InputError(
                "the contrasts are not completions: they have no prompt, or text follows them",
                hint="give them a prompt, or read another position",
            )
        if position is None and contrasts.positive[0].role in (None, "assistant"):
            raise InputError(
                "no template puts anything after these texts, so they have no suffix",
                hint=f"{SUFFIX} is for what a user says to a chat model; pass --chat",
            )


def first_difference(tokens: Tokens, other: Tokens) -> int:
    """Index of the first token in which a passage differs from another, at most its last token."""
    return min(shared_prefix(tokens.ids, other.ids), tokens.text_stop - 1)


def suffix_length(passages: Sequence[Tokens]) -> int:
    """The number of tokens that the template puts after the text: the least over all passages."""
    return min(tokens.stop - tokens.text_stop for tokens in passages)


def _span(tokens: Tokens, position: Position, mean_start: int, subject: str) -> tuple[int, int]:
    # Indices and spans count tokens of the text and of what follows it.
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
    """The length of the common prefix of two token sequences."""
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))
