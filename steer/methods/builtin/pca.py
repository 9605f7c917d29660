"""The direction along which pairs differ most."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steer.methods.method import FitMethod

if TYPE_CHECKING:
    from steer.methods.method import Array


def compute(positive: Array, negative: Array) -> Array:
    """First right singular vector of the pair differences, not centred; [n, d_model] each.

    argmax over |u| = 1 of the sum of ((p_i - n_i) . u)^2. Without centring the mean difference,
    which centring would take away, is what dominates where the pairs agree. Zou et al. 2023
    (arXiv 2310.01405, section 3.1) use pair differences too.
    """
    import numpy as np

    return np.asarray(np.linalg.svd(positive - negative, full_matrices=False)[2][0])


METHOD = FitMethod(
    name="pca",
    title="first principal component",
    help="the direction along which pairs differ most",
    order=2,
    compute=compute,
    needs_pairs=True,
)
