"""The difference of the two sides' means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steer.methods.method import FitMethod

if TYPE_CHECKING:
    from steer.methods.method import Array


def compute(positive: Array, negative: Array) -> Array:
    """mean(positive) - mean(negative); [n, d_model] each, to [d_model].

    Marks and Tegmark 2023 (arXiv 2310.06824, section 5); for pairs Rimsky et al. 2023 (arXiv
    2312.06681, section 2.1). One pair alone is activation addition (Turner et al. 2023, arXiv
    2308.10248, section 3).
    """
    difference: Array = positive.mean(0) - negative.mean(0)
    return difference


METHOD = FitMethod(
    name="mean_diff",
    title="mean difference",
    help="the difference of the two sides' means",
    order=1,
    compute=compute,
    keeps_length=True,
    means_only=True,
    positions=("mean", "last", "-8:"),
)
