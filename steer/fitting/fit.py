"""From activations to directions, and how well a direction tells the sides apart. No torch.

Every method gives a direction whose length is that of the mean difference along it, so that
coefficient 1 means the same for all: once the way from the negative side's mean to the positive's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steer.base.errors import InputError
from steer.fitting.activations import Activations
from steer.vectors.provenance import FitMethod

Array = NDArray[np.float64]

N_FOLDS = 5
#: Fewest records of a side for a held-out test: two in each fold.
MIN_HELD_OUT = 2 * N_FOLDS


@dataclass(frozen=True)
class SiteFit:
    """What was found at one site.

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


def fit_site(found: Activations, column: int, method: FitMethod) -> SiteFit:
    """Fit one site of a recording.

    `mean_diff` reads the file in chunks, twice; the other methods hold one site in memory.

    Raises:
        InputError: too few rows for the method, or pca of what is not paired.
    """
    if method == "mean_diff":
        sums = _fold_sums(found, column)
        directions = [_mean_diff(sums, without) for without in (None, *range(N_FOLDS))]
    else:
        check_method(method, paired=found.recording.paired)
        sides = found.side(column, 0).astype(np.float64), found.side(column, 1).astype(np.float64)
        directions = [METHODS[method](*sides)]
        if _can_hold_out(found):
            folds = [_folds(found, side) for side in range(2)]
            both = list(zip(sides, folds, strict=True))
            directions += [
                METHODS[method](*(rows[own != fold] for rows, own in both))
                for fold in range(N_FOLDS)
            ]
        sums = _fold_sums(found, column)
    return _judge(found, column, directions, _mean_diff(sums, None))


def check_method(method: FitMethod, *, paired: bool) -> None:
    """Refuse a method that needs pairs where there are none.

    Raises:
        InputError: it is pca. The i-th texts of two sets have nothing to do with each other; and
            what varies most in all their activations together need not be the contrast.
    """
    if method == "pca" and not paired:
        raise InputError(
            "pca is of the differences within pairs, and these texts are not pairs",
            hint="use mean_diff, probe or lda",
        )


def mean_diff(positive: Array, negative: Array) -> Array:
    """mean(positive) - mean(negative); [n, d_model] each, to [d_model].

    Marks and Tegmark 2023 (arXiv 2310.06824, section 5); for pairs Rimsky et al. 2023 (arXiv
    2312.06681, section 2.1). One pair alone is activation addition (Turner et al. 2023, arXiv
    2308.10248, section 3).
    """
    return np.asarray(positive.mean(0) - negative.mean(0))


def pca(positive: Array, negative: Array) -> Array:
    """First right singular vector of the pair differences, not centred; [n, d_model] each.

    argmax over |u| = 1 of the sum of ((p_i - n_i) . u)^2. Without centring the mean difference,
    which centring would take away, is what dominates where the pairs agree. Zou et al. 2023
    (arXiv 2310.01405, section 3.1) use pair differences too.
    """
    return _scaled(
        np.linalg.svd(positive - negative, full_matrices=False)[2][0], positive, negative
    )


def probe(positive: Array, negative: Array) -> Array:
    """Weights of a logistic regression of the side on the standardised activations.

    argmin over w of sum log(1 + exp(-y_i (w . z_i + b))) + |w|^2 / 2, z the activations less their
    mean and over their standard deviations; the direction is w over those again. Alain and Bengio
    2016 (arXiv 1610.01644); as a steering direction Li et al. 2023 (arXiv 2306.03341, section 3.1).
    """
    from sklearn.linear_model import LogisticRegression

    rows, labels = _stacked(positive, negative)
    spread = rows.std(0)
    spread[spread == 0] = 1.0
    # The intercept, which nothing holds back, makes up for the centring; without it the descent is
    # slow where a few features are far from 0, as they are in most large models.
    standardised = (rows - rows.mean(0)) / spread
    model = LogisticRegression(max_iter=1_000).fit(standardised, labels)
    return _scaled(model.coef_[0] / spread, positive, negative)


def lda(positive: Array, negative: Array) -> Array:
    """Mean difference whitened by the pooled covariance: S^-1 (mean(p) - mean(n)).

    Fisher 1936; S is shrunk towards a diagonal as Ledoit and Wolf 2004 choose it.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    model.fit(*_stacked(positive, negative))
    return _scaled(model.coef_[0], positive, negative)


METHODS: dict[FitMethod, Callable[[Array, Array], Array]] = {
    "mean_diff": mean_diff,
    "pca": pca,
    "probe": probe,
    "lda": lda,
}


def auc(positive: Array, negative: Array) -> float:
    """The chance that a positive number exceeds a negative one, ties counted half.

    Mann and Whitney 1947: U / (n m).
    """
    order = np.sort(negative)
    below = np.searchsorted(order, positive, side="left")
    not_above = np.searchsorted(order, positive, side="right")
    return float((below + not_above).mean() / 2 / len(negative))


def unit(direction: Array) -> Array:
    """At length 1; zeros stay."""
    length = float(np.linalg.norm(direction))
    return np.asarray(direction / length) if length else direction


def _scaled(direction: Array, positive: Array, negative: Array) -> Array:
    """The direction at the mean difference's length along it, pointing to the positive side."""
    axis = unit(direction)
    return np.asarray(float(mean_diff(positive, negative) @ axis) * axis)


def _stacked(positive: Array, negative: Array) -> tuple[Array, Array]:
    if min(len(positive), len(negative)) < 2:
        raise InputError("this method needs two texts a side", hint="a single pair has mean_diff")
    labels = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
    return np.concatenate([positive, negative]), labels


def _folds(found: Activations, side: int) -> NDArray[np.int64]:
    """The fold of each row of a side, int64 [n]. Rows of one record share texts, so they are held
    out together."""
    return np.asarray(found.recording.record_numbers(side) % N_FOLDS)


def _can_hold_out(found: Activations) -> bool:
    n_records = [len(set(found.recording.record_numbers(side).tolist())) for side in range(2)]
    return min(n_records) >= MIN_HELD_OUT


def _fold_sums(found: Activations, column: int) -> tuple[Array, Array]:
    """Sums float64 [2, N_FOLDS, d_model] and counts [2, N_FOLDS] of each side by fold."""
    sums = np.zeros((2, N_FOLDS, found.recording.model.d_model))
    counts = np.zeros((2, N_FOLDS))
    for side in range(2):
        every = _folds(found, side)
        for where, rows in found.chunks(column, side):
            folds = every[where]
            for fold in range(N_FOLDS):
                sums[side, fold] += rows[folds == fold].sum(0, dtype=np.float64)
                counts[side, fold] += (folds == fold).sum()
    return sums, counts


def _mean_diff(moments: tuple[Array, Array], without: int | None) -> Array:
    sums, counts = moments
    keep = np.arange(N_FOLDS) != (-1 if without is None else without)
    with np.errstate(invalid="ignore"):
        # Folds are empty with fewer rows than folds; nothing is held out then.
        means = sums[:, keep].sum(1) / counts[:, keep].sum(1)[:, None]
    return np.asarray(means[0] - means[1], np.float64)


def _judge(found: Activations, column: int, directions: list[Array], difference: Array) -> SiteFit:
    """Project every row on the direction, and on the one fitted without its fold."""
    direction, *held_out = directions
    axes = np.stack([unit(direction), *held_out])
    scores = [
        np.concatenate([rows @ axes.T for _, rows in found.chunks(column, side)])
        for side in range(2)
    ]
    separability = None
    if held_out and _can_hold_out(found):
        folds = [_folds(found, side) for side in range(2)]
        separability = float(np.mean([_fold_auc(scores, folds, fold) for fold in range(N_FOLDS)]))
    return SiteFit(
        direction,
        (scores[0][:, 0], scores[1][:, 0]),
        separability,
        _coherence(found, column, axes[0]),
        float(axes[0] @ unit(difference)),
    )


def _fold_auc(scores: list[Array], folds: list[NDArray[np.int64]], fold: int) -> float:
    held = [side[own == fold, 1 + fold] for side, own in zip(scores, folds, strict=True)]
    return auc(held[0], held[1])


def _coherence(found: Activations, column: int, axis: Array) -> float | None:
    """Mean cosine of the pair differences with the direction; None where there are no pairs."""
    if not found.recording.paired:
        return None
    cosines = [difference @ axis for difference in _unit_differences(found, column)]
    return float(np.concatenate(cosines).mean())


def _unit_differences(found: Activations, column: int) -> Iterator[Array]:
    both = zip(found.chunks(column, 0), found.chunks(column, 1), strict=True)
    for (_, positive), (_, negative) in both:
        differences = positive.astype(np.float64) - negative
        lengths = np.linalg.norm(differences, axis=1, keepdims=True)
        yield np.divide(differences, lengths, out=np.zeros_like(differences), where=lengths > 0)
