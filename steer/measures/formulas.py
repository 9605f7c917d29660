"""The formulas of the measures. No tensors.

Effect: `preference`, `multiple_choice`, `share_moved`, `wrong_way`, `has_word`; cost: `distinct`.
Divergences are in `steer.distillation.recovery`, intervals in `steer.base.intervals`.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from steer.base.intervals import Interval, Numbers, rate
from steer.measures.measure import Baselines, Observations

Array = NDArray[np.float64]


def preference(positive: Numbers, negative: Numbers) -> Array:
    """log p(positive ending | prompt) - log p(negative ending | prompt) of each item, in nats.

    positive, negative: log-probabilities of the whole endings.
    """
    return np.asarray(positive, np.float64) - np.asarray(negative, np.float64)


def multiple_choice(preferences: Numbers) -> Array:
    """Probability of the matching one of two answers, for each item.

    p(matching) / (p(matching) + p(other)), as Rimsky et al. 2023 (arXiv 2312.06681, section 4.1)
    report it; it is the logistic function of the preference.
    """
    return np.asarray(0.5 * (1 + np.tanh(0.5 * np.asarray(preferences, np.float64))))


def share_moved(shifts: Numbers) -> Interval:
    """Share of items whose preference rose; an unchanged one does not count."""
    right = (np.asarray(shifts, np.float64) > 0).astype(np.float64)
    return rate(right, np.ones(right.shape))


def wrong_way(shifts: Numbers) -> list[int]:
    """Indices of the items whose preference fell, the worst first."""
    values = np.asarray(shifts, np.float64)
    order = np.argsort(values, kind="stable")
    return [int(index) for index in order if values[index] < 0]


def distinct(tokens: Sequence[Hashable], n: int = 2) -> tuple[int, int]:
    """The number of different n-grams in a text, and of all its n-grams.

    distinct-n of Li et al. 2016 (arXiv 1510.03055, section 5.2), within one text and per n-gram.
    """
    grams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    return len(set(grams)), len(grams)


def has_word(text: str, words: Sequence[str]) -> bool:
    """Whether a text contains one of the words or phrases, ignoring case."""
    inside = "|".join(re.escape(word) for word in words)
    return re.search(rf"(?<!\w)(?:{inside})(?!\w)", text, re.IGNORECASE) is not None


def shifts(row: Observations, baselines: Baselines) -> Array | None:
    """Change of each pair's preference, in nats, [cell, pair]; None without pairs."""
    if row.preferences is None or baselines.unsteered.preferences is None:
        return None
    return np.asarray(row.preferences - baselines.unsteered.preferences)
