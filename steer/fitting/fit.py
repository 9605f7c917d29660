"""Fit a direction to the activations of one site, and test how well it separates the sides.

A method (`steer.methods`) gives a direction with the length of the mean difference along it, so
that coefficient 1 means the same for all methods: from the negative side's mean to the positive
side's. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steer.fitting.activations import Activations, Rows
from steer.methods.method import FitMethod, Options
from steer.methods.registry import check_paired

Array = NDArray[np.float64]
#: Which numbers of an activation are used, bool [width].
Mask = NDArray[np.bool_]

N_FOLDS = 5
#: Fewest records of a side for a held-out test: two in each fold.
MIN_HELD_OUT = 2 * N_FOLDS


@dataclass(frozen=True)
class Column:
    """The activations of one site and position, or those of its numbers that `mask` has."""

    activations: Activations
    index: int
    mask: Mask | None = None

    @property
    def width(self) -> int:
        """The number of numbers that are used."""
        return self.activations.recording.width if self.mask is None else int(self.mask.sum())

    def chunks(self, side: int) -> Iterator[tuple[slice, Rows]]:
        """As `Activations.chunks`, [n, width]."""
        for where, rows in self.activations.chunks(self.index, side):
            yield where, rows if self.mask is None else rows[:, self.mask]

    def side(self, side: int) -> Array:
        """All activations of a side (0 is positive), float64 [n, width]."""
        return np.concatenate([rows for _, rows in self.chunks(side)]).astype(np.float64)

    def expand(self, direction: Array) -> Array:
        """A direction [width] with zeros for the numbers that are not used."""
        if self.mask is None:
            return direction
        filled = np.zeros(len(self.mask))
        filled[self.mask] = direction
        return filled


@dataclass(frozen=True)
class SiteFit:
    """The direction of one site and its statistics.

    direction: [d_model], activation units. projections: of both sides' rows on its unit vector,
    [n_positive] and [n_negative]. separability: held-out AUC, None with too few rows.
    coherence: mean cosine of pair differences with the direction, None where rows are not pairs:
    how alike two sets are inside says nothing of how alike single differences would be.
    agreement: cosine with the mean difference.
    """

    direction: Array
    projections: tuple[Array, Array]
    separability: float | None
    coherence: float | None
    agreement: float


def fit_site(
    activations: Activations,
    column: int,
    method: FitMethod,
    options: Options | None = None,
    mask: Mask | None = None,
) -> SiteFit:
    """Fit one site of a recording. mask: the numbers to use; by default all.

    A method that only needs means reads the file in chunks, twice; others hold one site in memory.

    Raises:
        InputError: too few rows for the method, or it needs pairs and there are none.
    """
    check_paired(method, paired=activations.recording.paired)
    used = Column(activations, column, mask)
    settings = method.settings(options or {})
    sums = _fold_sums(used)
    held_out = range(N_FOLDS) if can_hold_out(activations) else ()
    if method.means_only:
        directions = [
            method.direction(*_means(sums, without), settings) for without in (None, *held_out)
        ]
    else:
        positive, negative = (used.side(side) for side in range(2))
        directions = [method.direction(positive, negative, settings)]
        of_positive, of_negative = (folds(activations, side) for side in range(2))
        directions += [
            method.direction(positive[of_positive != fold], negative[of_negative != fold], settings)
            for fold in held_out
        ]
    means = _means(sums, None)
    return _site_fit(used, directions, np.asarray(means[0][0] - means[1][0]))


def auc(positive: Array, negative: Array) -> float:
    """The probability that a positive number exceeds a negative one; ties count half.

    Mann and Whitney 1947: U / (n m).
    """
    order = np.sort(negative)
    below = np.searchsorted(order, positive, side="left")
    not_above = np.searchsorted(order, positive, side="right")
    return float((below + not_above).mean() / 2 / len(negative))


def unit(direction: Array) -> Array:
    """A direction scaled to length 1; zeros stay."""
    length = float(np.linalg.norm(direction))
    return np.asarray(direction / length) if length else direction


def folds(activations: Activations, side: int) -> NDArray[np.int64]:
    """The fold of each row of a side, int64 [n]. Rows of one record share texts, so they are held
    out together."""
    return np.asarray(activations.recording.record_numbers(side) % N_FOLDS)


def can_hold_out(activations: Activations) -> bool:
    """Whether each fold has enough records of both sides for a held-out test."""
    numbers = [activations.recording.record_numbers(side) for side in range(2)]
    return min(len(np.unique(side)) for side in numbers) >= MIN_HELD_OUT


def _fold_sums(column: Column) -> tuple[Array, Array]:
    """Sums float64 [2, N_FOLDS, width] and counts [2, N_FOLDS] of each side by fold."""
    sums = np.zeros((2, N_FOLDS, column.width))
    counts = np.zeros((2, N_FOLDS))
    for side in range(2):
        every = folds(column.activations, side)
        for where, rows in column.chunks(side):
            own = every[where]
            for fold in range(N_FOLDS):
                sums[side, fold] += rows[own == fold].sum(0, dtype=np.float64)
                counts[side, fold] += (own == fold).sum()
    return sums, counts


def _means(moments: tuple[Array, Array], without: int | None) -> tuple[Array, Array]:
    """The mean of each side without one fold, [1, d_model] each."""
    sums, counts = moments
    keep = np.arange(N_FOLDS) != (-1 if without is None else without)
    means = sums[:, keep].sum(1) / counts[:, keep].sum(1)[:, None]
    return means[:1], means[1:]


def _site_fit(column: Column, directions: list[Array], difference: Array) -> SiteFit:
    """Project every row on the direction, and on the one fitted without its fold."""
    direction, *held_out = directions
    axes = np.stack([unit(direction), *held_out])
    scores = [
        np.concatenate([rows @ axes.T for _, rows in column.chunks(side)]) for side in range(2)
    ]
    separability = None
    if held_out:
        every = [folds(column.activations, side) for side in range(2)]
        separability = float(np.mean([_fold_auc(scores, every, fold) for fold in range(N_FOLDS)]))
    return SiteFit(
        column.expand(direction),
        (scores[0][:, 0], scores[1][:, 0]),
        separability,
        _coherence(column, axes[0]),
        float(axes[0] @ unit(difference)),
    )


def _fold_auc(scores: list[Array], every: list[NDArray[np.int64]], fold: int) -> float:
    held = [side[own == fold, 1 + fold] for side, own in zip(scores, every, strict=True)]
    return auc(held[0], held[1])


def _coherence(column: Column, axis: Array) -> float | None:
    """Mean cosine of the pair differences with the direction; None without pairs."""
    if not column.activations.recording.paired:
        return None
    cosines = [difference @ axis for difference in _unit_differences(column)]
    return float(np.concatenate(cosines).mean())


def _unit_differences(column: Column) -> Iterator[Array]:
    both = zip(column.chunks(0), column.chunks(1), strict=True)
    for (_, positive), (_, negative) in both:
        differences = positive.astype(np.float64) - negative
        lengths = np.linalg.norm(differences, axis=1, keepdims=True)
        yield np.divide(differences, lengths, out=np.zeros_like(differences), where=lengths > 0)
