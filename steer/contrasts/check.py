"""Confounds of a contrast set: lengths, first tokens, repeats. No model, no torch.

A direction captures whatever separates the two sides. If their lengths or first tokens separate
them, the direction may be one of length or of single words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from steer.contrasts.contrasts import Contrasts
from steer.contrasts.duplicates import near_duplicates
from steer.contrasts.passages import Passage
from steer.contrasts.reading import Tokens, first_difference
from steer.fitting.fit import N_FOLDS, auc
from steer.fitting.fitting import rounded
from steer.vectors.giveaways import Giveaways, Lengths
from steer.vectors.sources import Records, record_numbers

#: The fewest texts a side for which an AUC means something.
ENOUGH = 10
#: A word, or a punctuation mark: what texts are counted in without a tokenizer.
WORD = re.compile(r"\w+|[^\w\s]")


def giveaways(
    contrasts: Contrasts, tokens: tuple[Sequence[Tokens], Sequence[Tokens]] | None = None
) -> Giveaways:
    """The confounds of a set, counted in `tokens` of both sides where given, else in words."""
    sides = contrasts.positive, contrasts.negative
    if contrasts.conditions is not None and tokens is None:
        # The same texts stand after each condition.
        sides = contrasts.positive[: _n_texts(contrasts)], contrasts.negative[: _n_texts(contrasts)]
    if tokens is None:
        words = [[WORD.findall(passage.text) for passage in side] for side in sides]
        lengths = [[len(text) for text in side] for side in words]
        firsts = _first_words(words, paired=contrasts.paired)
    else:
        lengths = [[text.text_stop - text.text_start for text in side] for side in tokens]
        firsts = _first_tokens(tokens, paired=contrasts.paired)
    enough = min(len(contrasts.positive), len(contrasts.negative)) >= ENOUGH
    # Under conditions both sides have the same texts.
    comparable = enough and contrasts.kind != "conditions"
    units = _units(contrasts)
    equal = _n_equal(contrasts)
    return Giveaways(
        unit="words" if tokens is None else "tokens",
        positive=_lengths(lengths[0]),
        negative=_lengths(lengths[1]),
        length_auc=_longer(*lengths, paired=contrasts.paired) if comparable else None,
        first_token=rounded(_separability(*firsts, paired=contrasts.paired))
        if comparable
        else None,
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
    """How many pairs hold the same passage twice; for sets, how many passages are on both sides."""
    if contrasts.conditions is not None:
        return 0  # the conditions differ
    sides = contrasts.positive, contrasts.negative
    if contrasts.paired:
        return sum(positive == negative for positive, negative in zip(*sides, strict=True))
    return len(set(sides[0]) & set(sides[1]))


class _JoinedTexts(Sequence[str]):
    """Joins the texts of several passages on access, which saves memory for large sets."""

    def __init__(self, texts: Callable[[Passage], str], *sides: Sequence[Passage]) -> None:
        self._text, self._sides = texts, sides

    def __len__(self) -> int:
        return len(self._sides[0])

    def __getitem__(self, index: Any) -> Any:
        return "\n".join(self._text(side[index]) for side in self._sides)


def _units(contrasts: Contrasts) -> list[_JoinedTexts]:
    """The texts to search for repeats: each pair as one text, else the texts of each side.

    For conditions: the texts that follow them, each once.
    """
    if contrasts.conditions is not None:
        return [_JoinedTexts(_without_condition, contrasts.positive[: _n_texts(contrasts)])]
    sides = contrasts.positive, contrasts.negative
    if not contrasts.paired:
        return [_JoinedTexts(_whole, side) for side in sides]
    return [_JoinedTexts(_whole, *sides)]


def _whole(passage: Passage) -> str:
    return "\n".join([*(turn.content for turn in passage.turns), passage.full_text])


def _without_condition(passage: Passage) -> str:
    """The user's messages and the text, without the parts that can hold a condition."""
    return "\n".join([*(t.content for t in passage.turns if t.role == "user"), passage.text])


def _near(units: Sequence[Sequence[str]], records: Records) -> float:
    """The share of texts that have a near-duplicate in another cross-validation fold. records:
    which texts of a side share a record."""
    total = sum(map(len, units))
    folds = [record_numbers(records, len(side)) % N_FOLDS for side in units]
    affected = 0
    for side, fold in zip(units, folds, strict=True):
        pairs = [pair for pair in near_duplicates(side) if fold[pair[0]] != fold[pair[1]]]
        affected += len({index for pair in pairs for index in pair})
    return affected / total


def _lengths(lengths: Sequence[int]) -> Lengths:
    return Lengths(least=min(lengths), median=float(np.median(lengths)), most=max(lengths))


def _longer(positive: Sequence[int], negative: Sequence[int], *, paired: bool) -> float:
    """The probability that the positive text of a pair (or of any two texts) is longer; a tie
    counts half."""
    sides = np.array(positive, float), np.array(negative, float)
    if paired:
        return rounded(float(np.sign(sides[0] - sides[1]).mean() + 1) / 2)
    return rounded(auc(*sides))


def _first_words(words: Sequence[Sequence[Sequence[str]]], *, paired: bool) -> list[list[str]]:
    """The first word of each text; in pairs, the first that differs. "" where there is none."""
    if not paired:
        return [[text[0] if text else "" for text in side] for side in words]
    firsts: list[list[str]] = [[], []]
    for pair in zip(*words, strict=True):
        differ = (i for i, (a, b) in enumerate(zip(*pair, strict=False)) if a != b)
        first = next(differ, min(map(len, pair)))
        for side, text in zip(firsts, pair, strict=True):
            side.append(text[first] if first < len(text) else "")
    return firsts


def _first_tokens(
    tokens: tuple[Sequence[Tokens], Sequence[Tokens]], *, paired: bool
) -> list[list[str]]:
    if not paired:
        return [[str(text.ids[text.text_start]) for text in side] for side in tokens]
    pairs = list(zip(*tokens, strict=True))
    return [
        [str(own.ids[first_difference(own, other)]) for own, other in side]
        for side in (pairs, [(n, p) for p, n in pairs])
    ]


def _separability(positive: Sequence[str], negative: Sequence[str], *, paired: bool) -> float:
    """The share of pairs (or of texts, with equal weight of both sides) that the first token
    classifies correctly.

    The prediction is the side that has this token more often in the other pairs; ties count half.
    Each pair (or text) is left out of its own counts, so a token that occurs once predicts nothing.
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
    # Leaving out the text itself biases the score below one half: of a word that is equally
    # frequent on both sides, the text's own side has one less.
    return max(0.5, (apart + 1) / 2)
