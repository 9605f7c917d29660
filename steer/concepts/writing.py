"""Contrast sets that a model writes: diverse pairs of answers that differ only in the concept.

The model writes more answers than needed. Both answers of a pair are cut to the same number of
words; near-duplicates are dropped; and pairs are chosen so that each first word begins about as
many positive as negative answers. The file can be read and edited before it is used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from steer.base.errors import InputError
from steer.concepts.answers import Query
from steer.concepts.concept import Concept, condition
from steer.concepts.questions import Questions, everyday
from steer.contrasts.check import WORD
from steer.contrasts.duplicates import near_duplicates

#: Generates an answer to each query; equal queries with different numbers get different answers.
Answerer = Callable[[Sequence[Query], Sequence[int]], Sequence[str]]
#: Pairs to generate for each pair that is wanted.
SPARE = 1.75
#: The fewest words of a side.
LEAST_WORDS = 4


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one question."""

    question: str
    positive: str
    negative: str

    def record(self) -> dict[str, Any]:
        """As a line of a contrast file."""
        return {"prompt": self.question, "positive": self.positive, "negative": self.negative}


def write_contrast_set(
    answerer: Answerer,
    concept: Concept,
    n: int,
    *,
    chat: bool,
    phrase: str | None = None,
    questions: Questions | None = None,
) -> list[Pair]:
    """`n` pairs of answers to everyday questions under the poles of a concept, or fewer if not
    enough are usable. phrase, questions: as in `MakeSettings`.

    Raises:
        InputError: no pair is usable.
    """
    questions = questions or everyday(chat=chat)
    positive, negative = (condition(pole, chat=chat, phrase=phrase) for pole in concept.poles)
    pool = [*questions.train, *questions.choice]
    return write_pairs(answerer, (positive, negative), pool, n, chat=chat)


def write_pairs(
    answerer: Answerer,
    conditions: tuple[str, str],
    questions: Sequence[str],
    n: int,
    *,
    chat: bool,
) -> list[Pair]:
    """`n` pairs of answers under two conditions, or fewer if not enough are usable.

    Raises:
        InputError: no pair is usable.
    """
    wanted = max(n + 4, round(n * SPARE))
    rounds = [(questions[i % len(questions)], i // len(questions)) for i in range(wanted)]
    queries = [Query(condition, q, chat) for condition in conditions for q, _ in rounds]
    written = answerer(queries, [number for _ in conditions for _, number in rounds])
    pairs = [
        pair
        for (question, _), positive, negative in zip(
            rounds, written[:wanted], written[wanted:], strict=True
        )
        if (pair := _even(question, positive, negative)) is not None
    ]
    chosen = _balanced(_distinct(pairs), n)
    if not chosen:
        written_something = any(text.strip() for text in written)
        raise InputError(
            "the answers under both words are alike, or too short"
            if written_something
            else "the model answers with nothing",
            hint="use other words, or a larger model with --judge-url",
        )
    return chosen


def _even(question: str, positive: str, negative: str) -> Pair | None:
    """Both answers cut to the length of the shorter one in words; None if that is too short."""
    texts = [" ".join(text.replace("\ufffd", " ").split()) for text in (positive, negative)]
    ends = [[word.end() for word in WORD.finditer(text)] for text in texts]
    n = min(map(len, ends))
    if n < LEAST_WORDS:
        return None
    cut = [text[: stops[n - 1]] for text, stops in zip(texts, ends, strict=True)]
    if cut[0].lower() == cut[1].lower():
        return None
    return Pair(question, cut[0], cut[1])


def _distinct(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs without near-duplicates of an earlier text."""
    texts = [text for pair in pairs for text in (pair.positive, pair.negative)]
    dropped = {max(a, b) // 2 for a, b in near_duplicates(texts)}
    return [pair for index, pair in enumerate(pairs) if index not in dropped]


def _balanced(pairs: Sequence[Pair], n: int) -> list[Pair]:
    """At most `n` pairs, chosen one by one so that both sides have the same first words."""
    left = list(pairs)
    chosen: list[Pair] = []
    #: How often each word is first on the positive side, minus the negative side.
    lead: Counter[str] = Counter()
    while left and len(chosen) < n:
        best = min(range(len(left)), key=lambda i: _imbalance(left[i], lead))
        pair = left.pop(best)
        for text, sign in ((pair.positive, 1), (pair.negative, -1)):
            lead[_first(text)] += sign
        chosen.append(pair)
    return chosen


def _imbalance(pair: Pair, lead: Counter[str]) -> int:
    first, second = _first(pair.positive), _first(pair.negative)
    if first == second:
        return 0
    return abs(lead[first] + 1) + abs(lead[second] - 1) - abs(lead[first]) - abs(lead[second])


def _first(text: str) -> str:
    return text.split(" ", 1)[0].lower().strip(".,!?;:'\"")
