"""The mean difference, whitened: linear discriminant analysis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steer.methods.method import FitMethod

if TYPE_CHECKING:
    from steer.methods.method import Array


def compute(positive: Array, negative: Array) -> Array:
    """Mean difference whitened by the pooled covariance: S^-1 (mean(p) - mean(n)).

    Fisher 1936; S is shrunk towards a diagonal as Ledoit and Wolf 2004 choose it.
    """
    import numpy as np
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    labels = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
    model.fit(np.concatenate([positive, negative]), labels)
    return np.asarray(model.coef_[0])


METHOD = FitMethod(
    name="lda",
    title="linear discriminant analysis",
    help="the mean difference, whitened by the covariance of the activations",
    order=4,
    compute=compute,
    least=2,
)
