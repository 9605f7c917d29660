"""The weights of a logistic regression that tells the sides apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steer.methods.method import FitMethod, Option

if TYPE_CHECKING:
    from steer.methods.method import Array


def compute(positive: Array, negative: Array, penalty: float = 1.0) -> Array:
    """Weights of a logistic regression of the side on the standardised activations.

    argmin over w of sum log(1 + exp(-y_i (w . z_i + b))) + penalty |w|^2 / 2, z the activations
    less their mean and over their standard deviations; the direction is w over those again. Alain
    and Bengio 2016 (arXiv 1610.01644); as a steering direction Li et al. 2023 (arXiv 2306.03341,
    section 3.1).
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    rows = np.concatenate([positive, negative])
    labels = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
    spread = rows.std(0)
    spread[spread == 0] = 1.0
    # The intercept, which nothing holds back, makes up for the centring; without it the descent is
    # slow where a few features are far from 0, as they are in most large models.
    standardised = (rows - rows.mean(0)) / spread
    model = LogisticRegression(C=1 / penalty, max_iter=1_000).fit(standardised, labels)
    return np.asarray(model.coef_[0] / spread)


METHOD = FitMethod(
    name="probe",
    title="logistic regression",
    help="the weights of a logistic regression that tells the sides apart",
    order=3,
    options=(Option("penalty", 1.0, "weight of |w|^2 / 2 in the loss", least=1e-9, most=1e9),),
    compute=compute,
    least=2,
)
