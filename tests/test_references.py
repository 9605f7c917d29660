"""Vectors are those of the tools that people come from, where these do the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from recorded import direction, extract, pairs
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from steer.fitting import fit

#: Written by `tests/benchmarks/references.py`, with the rivals themselves.
KNOWN = json.loads(Path(__file__).with_name("references.json").read_text())
PAIRS = pairs(*map(tuple, KNOWN["pairs"]))


@pytest.mark.parametrize(
    ("theirs", "method"), [("steering-vectors mean", "mean_diff"), ("repeng pca_center", "pca")]
)
def test_the_same_pairs_give_the_vector_of_others(theirs: str, method: str) -> None:
    vector = extract(tiny.model("llama"), PAIRS, method=method, positions="last")
    compared = 0
    for layer, row in zip(vector.metadata.layers, vector.directions, strict=True):
        # repeng leaves the first layer out, and reads the last one after the final norm.
        if str(layer) not in KNOWN[theirs] or ("repeng" in theirs and layer == 2):
            continue
        reference = np.array(KNOWN[theirs][str(layer)])
        compared += 1
        if method == "mean_diff":
            np.testing.assert_allclose(row, reference, rtol=1e-4, atol=1e-5)
        # Theirs has length 1 and ours that of the mean difference along it; the sign is the same.
        assert fit.unit(row) @ fit.unit(reference) > 1 - 1e-6
    assert compared == (3 if method == "mean_diff" else 1)


def planted(n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    sides = rng.normal(size=(2, n, 16)) * np.linspace(0.5, 2, 16)
    return sides[0] + 1, sides[1]


def test_pca_is_the_one_of_scikit_learn() -> None:
    positive, negative = planted()
    centre = (positive + negative) / 2
    reference = PCA(1).fit(np.concatenate([positive - centre, negative - centre])).components_[0]
    assert abs(fit.unit(direction("pca", positive, negative)) @ reference) > 1 - 1e-9


def test_lda_is_the_one_of_scikit_learn() -> None:
    positive, negative = planted()
    labels = np.r_[np.ones(300), np.zeros(300)]
    model = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto")
    reference = model.fit(np.concatenate([positive, negative]), labels).coef_[0]
    assert fit.unit(direction("lda", positive, negative)) @ fit.unit(reference) > 1 - 1e-9
