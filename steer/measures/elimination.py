"""Successive elimination: only promising cells of a sweep are scored on all texts.

All cells are scored on some of the texts. Cells more than 2.5 standard errors behind the best one
within the budget are dropped; the others are scored on as many texts again, and so on until all
texts are used. No text is scored twice under a cell. Even-Dar, Mannor & Mansour 2006 (Action
elimination, section 3). Confidence comes from the standard error of a cell's paired difference from
the best cell, as in Maron & Moore 1997 (The racing algorithm); it is not a worst-case bound.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from steer.measures.grids import Array, Position, Scores, ratios

#: The fewest texts of a first look, and the most looks after it.
FEWEST, LEAVE = 12, 4
#: How many standard errors behind the best a cell is dropped.
SURE = 2.5

Indices = NDArray[np.int64]
Cells = NDArray[np.bool_]


def n_looks(n_texts: int) -> int:
    """The number of looks at `n_texts` texts; each look doubles the number of scored texts."""
    return 1 + min(LEAVE, int(np.log2(max(n_texts / FEWEST, 1))))


def looks(n_texts: int, n_looks: int) -> list[Indices]:
    """Indices of the texts that each look adds, at random, since neighbours may be similar."""
    order = np.random.default_rng(n_texts).permutation(n_texts)
    seen = [round(n_texts / 2**halvings) for halvings in reversed(range(1, n_looks))]
    return [np.sort(part) for part in np.split(order, seen)]


def contenders(scores: Scores, max_kl: float, out: Collection[Position] = ()) -> Cells:
    """Cells that can still be the strongest within the budget, bool [row, column].

    Each is compared with the strongest cell that is clearly within the budget, on the items that
    both were scored on. out: cells that are excluded in any case.
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
    """Standard errors of `ratios`, from the residuals of the values that are not NaN."""
    scored = ~np.isnan(tops)
    n = scored.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        residuals = tops - ratios(tops, bottoms)[..., None] * bottoms
        spread = np.sqrt(np.nansum(residuals**2, -1) * n / (n - 1))
        return np.asarray(spread / np.where(scored, bottoms, 0.0).sum(-1))
