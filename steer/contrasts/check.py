"""What a contrast set gives away by itself: lengths, first tokens, repeats. No model, no torch.

A direction finds whatever tells the two sides apart. Where their length does, or the first token,
it may be a direction of just that.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from steer.contrasts.contrasts import Contrasts
from steer.contrasts.near import near_duplicates
from steer.contrasts.passages import Passage
from steer.contrasts.reading import Tokens, first_difference
from steer.fitting.fit import N_FOLDS, auc
from steer.fitting.fitting import rounded
from steer.vectors.giveaways import Giveaways, Lengths
from steer.vectors.sources import Records, record_numbers

#: The fewest texts a side of which an AUC says something.
ENOUGH = 10
_WORD = re.compile(r"\w+|[^\w\s]")


def giveaways(
    contrasts: Contrasts, tokens: tuple[Sequence[Tokens], Sequence[Tokens]] | None = None
) -> Giveaways:
    """What the set gives away; in `tokens` of both sides where they are known, else in words."""
    sides = contrasts.positive, contrasts.negative
    if contrasts.conditions is not None and tokens is None:
        # The same texts stand after each condition.
        sides = contrasts.positive[: _n_texts(contrasts)], contrasts.negative[: _n_texts(contrasts)]
    if tokens is None:
        words = [[_WORD.findall(passage.text) for passage in side] for side in sides]
        lengths = [[len(one) for one in side] for side in words]
        firsts = _first_words(words, paired=contrasts.paired)
    else:
        lengths = [[one.text_stop - one.text_start for one in side] for side in tokens]
        firsts = _first_tokens(tokens, paired=contrasts.paired)
    enough = min(len(contrasts.positive), len(contrasts.negative)) >= ENOUGH
    # Under conditions the texts are the same.
    told = enough and contrasts.kind != "conditions"
    units = _units(contrasts)
    equal = _n_equal(contrasts)
    return Giveaways(
        unit="words" if tokens is None else "tokens",
        positive=_lengths(lengths[0]),
        negative=_lengths(lengths[1]),
        length_auc=_longer(*lengths, paired=contrasts.paired) if told else None,
        first_token=rounded(_told_apart(*firsts, paired=contrasts.paired)) if told else None,
        duplicates=sum(len(side) - len(set(map(hash, side))) for side in units),
        equal_sides=equal,
        near_duplicates=rounded(_near(units, contrasts.records)) if enough else 0.0,
    )


def _n_texts(contrasts: Contrasts) -> int:
    """How many texts stand after each condition."""
    assert contrasts.conditions is not None
    counts = list(map(len, contrasts.conditions))
    return len(contrasts.positive) // (max(counts) if contrasts.paired else counts[0])


def _n_equal(contrasts: Contrasts) -> int:
    """Pairs of the same passage twice; of sets, passages on both sides."""
    if contrasts.conditions is not None:
        return 0  # the conditions differ
    sides = contrasts.positive, contrasts.negative
    if contrasts.paired:
        return sum(positive == negative for positive, negative in zip(*sides, strict=True))
    return len(set(sides[0]) & set(sides[1]))


class _Joined(Sequence[str]):
    """Texts of several passages each, put together when they are asked for: of many pairs they
    would take as much memory as the passages."""

    def __init__(self, texts: Callable[[Passage], str], *sides: Sequence[Passage]) -> None:
        self._text, self._sides = texts, sides

    def __len__(self) -> int:
        return len(self._sides[0])

    def __getitem__(self, index: Any) -> Any:
        return "\n".join(self._text(side[index]) for side in self._sides)


def _units(contrasts: Contrasts) -> list[_Joined]:
    """The texts that repeats are looked for in: pairs as one, else the texts of each side.

    Of conditions the texts that stand after them, each once.
    """
    if contrasts.conditions is not None:
        return [_Joined(_said, contrasts.positive[: _n_texts(contrasts)])]
    sides = contrasts.positive, contrasts.negative
    if not contrasts.paired:
        return [_Joined(_whole, side) for side in sides]
    return [_Joined(_whole, *sides)]


def _whole(passage: Passage) -> str:
    return "\n".join([*(turn.content for turn in passage.turns), passage.whole])


def _said(passage: Passage) -> str:
    """Without what may hold a condition."""
    return "\n".join([*(t.content for t in passage.turns if t.role == "user"), passage.text])


def _near(units: Sequence[Sequence[str]], records: Records) -> float:
    """The share of texts with a near-duplicate that a held-out fold does not hold with them.
    records: which texts of a side share a record."""
    total = sum(map(len, units))
    folds = [record_numbers(records, len(side)) % N_FOLDS for side in units]
    found = 0
    for side, fold in zip(units, folds, strict=True):
        pairs = near_duplicates(side)
        found += len({one for pair in pairs if fold[pair[0]] != fold[pair[1]] for one in pair})
    return found / total


def _lengths(lengths: Sequence[int]) -> Lengths:
    return Lengths(least=min(lengths), median=float(np.median(lengths)), most=max(lengths))


def _longer(positive: Sequence[int], negative: Sequence[int], *, paired: bool) -> float:
    """The chance that the positive text is the longer one, of a pair or of any two; ties half."""
    sides = np.array(positive, float), np.array(negative, float)
    if paired:
        return rounded(float(np.sign(sides[0] - sides[1]).mean() + 1) / 2)
    return rounded(auc(*sides))


def _first_words(words: Sequence[Sequence[Sequence[str]]], *, paired: bool) -> list[list[str]]:
    """Of each text the first word, in pairs the first that differs; nothing where none is left."""
    if not paired:
        return [[one[0] if one else "" for one in side] for side in words]
    made: list[list[str]] = [[], []]
    for pair in zip(*words, strict=True):
        differ = (i for i, (a, b) in enumerate(zip(*pair, strict=False)) if a != b)
        first = next(differ, min(map(len, pair)))
        for side, text in zip(made, pair, strict=True):
            side.append(text[first] if first < len(text) else "")
    return made


def _first_tokens(
    tokens: tuple[Sequence[Tokens], Sequence[Tokens]], *, paired: bool
) -> list[list[str]]:
    if not paired:
        return [[str(one.ids[one.text_start]) for one in side] for side in tokens]
    pairs = list(zip(*tokens, strict=True))
    return [
        [str(one.ids[first_difference(one, other)]) for one, other in side]
        for side in (pairs, [(n, p) for p, n in pairs])
    ]


def _told_apart(positive: Sequence[str], negative: Sequence[str], *, paired: bool) -> float:
    """The share of pairs (of texts, the sides weighing the same) that the first token tells apart.

    It says the side on which the others have it more often; ties count half. Each pair (or text) is
    left out of its own counts: a token that stands there once says nothing.
    """
    counts = Counter(positive), Counter(negative)

    def score(token: str, own: tuple[int, int]) -> float:
        shares = (
            (count[token] - mine) / max(1, len(side) - mine)
            for count, mine, side in zip(counts, own, (positive, negative), strict=True)
        )
        return next(shares) - next(shares)

    if paired:
        signs = [
            np.sign(score(p, (1, int(p == n))) - score(n, (int(p == n), 1)))
            for p, n in zip(positive, negative, strict=True)
        ]
        apart = float(np.mean(signs))
    else:
        sides = [np.sign([score(token, (1, 0)) for token in positive]),
                 -np.sign([score(token, (0, 1)) for token in negative])]  # fmt: skip
        apart = float(np.mean([side.mean() for side in sides]))
    # Less than half comes of leaving out what is counted: of two words as frequent on both sides
    # it leaves the side that a text is on with one less.
    return max(0.5, (apart + 1) / 2)
