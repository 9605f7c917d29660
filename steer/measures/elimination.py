"""Which cells of a sweep are scored on everything: successive elimination.

All cells are scored on a part of the texts. Those leave that by then can no longer be the strongest
within the budget; the others are scored on as many texts again, and so on up to all of them. What
was scored counts on: no text is scored twice under a cell. Even-Dar, Mannor & Mansour 2006 (Action
elimination, section 3). How sure that is tells the standard error of a cell's difference from the
best on the same items, as in Maron & Moore 1997 (The racing algorithm), and not a bound that holds
whatever comes.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from steer.measures.grids import Array, Position, Scores, ratios

#: Texts that a first look has at least, and how often cells may leave.
FEWEST, LEAVE = 12, 4
#: Standard errors by which a cell has to fall short to leave.
SURE = 2.5

Indices = NDArray[np.int64]
Cells = NDArray[np.bool_]


def n_looks(n_texts: int) -> int:
    """How many looks at so many texts there are, each of which doubles what was seen."""
    return 1 + min(LEAVE, int(np.log2(max(n_texts / FEWEST, 1))))


def looks(n_texts: int, n_looks: int) -> list[Indices]:
    """Numbers of the texts that each look adds, drawn at random: neighbours may be alike."""
    order = np.random.default_rng(n_texts).permutation(n_texts)
    seen = [round(n_texts / 2**left) for left in reversed(range(1, n_looks))]
    return [np.sort(part) for part in np.split(order, seen)]


def contenders(scores: Scores, max_kl: float, out: Collection[Position] = ()) -> Cells:
    """Cells that may be the strongest within the budget by what is scored of them, [row, column].

    Each is held against the strongest that is surely within, on the items that both were scored on.
    out: cells that are out whatever they do.
    """
    effects, costs = scores.looks()
    doubt = SURE * _errors(scores.drift, scores.counts)
    inside = np.ones(costs.shape, dtype=bool)
    for position in out:
        inside[position] = False
    surely = inside & (costs + doubt <= max_kl)
    maybe = inside & (costs - doubt <= max_kl)
    if not surely.any():
        return maybe
    best = np.unravel_index(np.where(surely, effects, -np.inf).argmax(), effects.shape)
    behind = scores.effect[best] - scores.effect
    short = ratios(behind, scores.weights)
    return np.asarray(maybe & (short <= SURE * _errors(behind, scores.weights)))


def _errors(tops: Array, bottoms: Array) -> Array:
    """Standard errors of `ratios`, by the spread of what is not NaN about them."""
    there = ~np.isnan(tops)
    n = there.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        left = tops - ratios(tops, bottoms)[..., None] * bottoms
        spread = np.sqrt(np.nansum(left**2, -1) * n / (n - 1))
        return np.asarray(spread / np.where(there, bottoms, 0.0).sum(-1))
