"""From activations to directions, and how well a direction tells the sides apart. numpy only."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

N_FOLDS = 5


@dataclass
class Moments:
    """Running sums of both sides by fold, so that memory does not grow with the pairs.

    sums: float64 [N_FOLDS, 2 sides, n_sites, d_model]; squares and norms: float64
    [2 sides, n_sites], of lengths; counts: pairs per fold. Pair i belongs to fold i % N_FOLDS.
    """

    n_sites: int
    d_model: int
    sums: Array = field(init=False)
    norms: Array = field(init=False)
    counts: Array = field(init=False)

    def __post_init__(self) -> None:
        self.sums = np.zeros((N_FOLDS, 2, self.n_sites, self.d_model))
        self.norms = np.zeros((2, self.n_sites))
        self.counts = np.zeros((N_FOLDS, 2))

    def add(self, pair: int, side: int, activations: Array, norms: Array) -> None:
        """Count one passage: activations [n_sites, d_model] and mean token lengths [n_sites]."""
        self.sums[pair % N_FOLDS, side] += activations
        self.norms[side] += norms
        self.counts[pair % N_FOLDS, side] += 1

    @property
    def n(self) -> int:
        """Pairs counted."""
        return int(self.counts[:, 0].sum())

    @property
    def resid_norm(self) -> Array:
        """Mean length of the activations read, both sides together, [n_sites]."""
        return np.asarray(self.norms.sum(0) / self.counts.sum())

    def mean_diff(self, without_fold: int | None = None) -> Array:
        """Mean of the positive side less mean of the negative side, [n_sites, d_model].

        Marks and Tegmark 2023 (arXiv 2310.06824, section 5, "mass-mean"); Rimsky et al. 2023
        (arXiv 2312.06681, section 2.1) for pairs: v = mean(a+) - mean(a-). One pair alone is
        activation addition (Turner et al. 2023, arXiv 2308.10248, section 3).
        `without_fold` leaves the pairs of one fold out.
        """
        keep = np.arange(N_FOLDS) != (-1 if without_fold is None else without_fold)
        totals = self.sums[keep].sum(0)
        counts = self.counts[keep].sum(0)
        return np.asarray(totals[0] / counts[0] - totals[1] / counts[1])


def separability(moments: Moments, pairs: NDArray[np.int64], sides: Array) -> Array | None:
    """Held-out AUC of each site, [n_sites]; None with fewer than two pairs a fold.

    pairs: int [n]; sides: [2, n, n_sites, d_model], the activations of those pairs. Each pair is
    projected on the direction fitted without its fold; 0.5 is chance, 1 is apart.
    """
    if moments.counts.min() < 2:
        return None
    scores = []
    for fold in range(N_FOLDS):
        held_out = pairs % N_FOLDS == fold
        if held_out.any():
            direction = moments.mean_diff(without_fold=fold)
            projections = np.einsum("snld,ld->snl", sides[:, held_out], direction)
            scores.append([auc(p, n) for p, n in zip(*_by_site(projections), strict=True)])
    return np.asarray(np.mean(scores, axis=0))


def _by_site(projections: Array) -> tuple[Array, Array]:
    return projections[0].T, projections[1].T


def auc(positive: Array, negative: Array) -> float:
    """The chance that a positive number exceeds a negative one, ties counted half.

    Mann and Whitney 1947: U / (n m).
    """
    order = np.sort(negative)
    below = np.searchsorted(order, positive, side="left")
    not_above = np.searchsorted(order, positive, side="right")
    return float((below + not_above).mean() / 2 / len(negative))


def unit(directions: Array) -> Array:
    """Each row at length 1; a row of zeros stays."""
    norms = np.linalg.norm(directions, axis=-1, keepdims=True)
    return np.asarray(np.divide(directions, norms, out=np.zeros_like(directions), where=norms > 0))


def rounded(value: float) -> float:
    """Six significant digits: more would only record in which order a CPU added numbers."""
    return float(f"{value:.6g}")
