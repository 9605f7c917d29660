"""Choose the attention heads, or the experts of routers, that tell the two sides apart best.

As Li et al. 2023 (arXiv 2306.03341, section 3.1) choose heads: a logistic regression on the
activation of each part alone, ranked by how well it does on texts that it was not fitted to. For a
router, each part is one logit, and the experts are those whose choice differs most between the
sides, as in SteerMoE (Fayyaz et al. 2025, arXiv 2509.09660).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from steer.base.errors import SiteError
from steer.fitting.activations import Activations
from steer.fitting.fit import N_FOLDS, Array, Mask, auc, can_hold_out, folds
from steer.methods.registry import fit_methods
from steer.vectors.parts import Part, Parts
from steer.vectors.sites import SITE_KINDS

#: The share of parts that is kept by default: about that of Li et al. 2023, 48 of 1,024 heads.
SHARE = 1 / 20


def masks(
    activations: Activations, columns: Sequence[int], keep: int | tuple[Part, ...] | None
) -> dict[int, Mask]:
    """The numbers of each column's activations that belong to parts to keep, bool [width].

    keep: how many parts, or which; by default one of 20. Columns without a part to keep are left
    out.

    Raises:
        SiteError: a part that was not recorded.
    """
    parts = activations.recording.parts
    assert isinstance(parts, Parts)
    chosen = (
        _named(activations, columns, keep)
        if isinstance(keep, tuple)
        else _best(activations, columns, keep or math.ceil(len(columns) * parts.n * SHARE))
    )
    return {
        column: np.repeat(np.isin(np.arange(parts.n), numbers), parts.width)
        for column, numbers in chosen.items()
    }


def _named(
    activations: Activations, columns: Sequence[int], keep: tuple[Part, ...]
) -> dict[int, list[int]]:
    recording = activations.recording
    parts = recording.parts
    assert isinstance(parts, Parts)
    column_of = {recording.columns[column][1].layer: column for column in columns}
    chosen: dict[int, list[int]] = {}
    for part in keep:
        name = SITE_KINDS[recording.sites[0].name].part
        if part.layer not in column_of:
            raise SiteError(f"{name} {part} is at a layer that was not recorded")
        if part.number >= parts.n:
            raise SiteError(
                f"there is no {name} {part}: a layer has {parts.n}, counted from 0",
                hint=f"use {part.layer}.0 to {part.layer}.{parts.n - 1}",
            )
        chosen.setdefault(column_of[part.layer], []).append(part.number)
    return chosen


def _best(activations: Activations, columns: Sequence[int], n: int) -> dict[int, list[int]]:
    """The n parts with the highest scores; of equal ones, the first."""
    scores = [
        (-score, column, number)
        for column in columns
        for number, score in enumerate(part_scores(activations, column))
    ]
    chosen: dict[int, list[int]] = {}
    for _, column, number in sorted(scores)[:n]:
        chosen.setdefault(column, []).append(number)
    return {column: chosen[column] for column in columns if column in chosen}


def part_scores(activations: Activations, column: int) -> list[float]:
    """The AUC of a logistic regression on each part alone, on texts that it was not fitted to; with
    too few texts, on the same ones."""
    parts = activations.recording.parts
    assert isinstance(parts, Parts)
    sides = [
        activations.side(column, side).astype(np.float64).reshape(-1, parts.n, parts.width)
        for side in range(2)
    ]
    own = [folds(activations, side) for side in range(2)]
    splits = range(N_FOLDS) if can_hold_out(activations) else (-1,)
    return [
        float(np.mean([_score(sides, own, number, fold) for fold in splits]))
        for number in range(parts.n)
    ]


def _score(
    sides: Sequence[Array], own: Sequence[NDArray[np.int64]], number: int, fold: int
) -> float:
    fitted, tested = (
        [
            side[(side_folds != fold) if fit or fold < 0 else (side_folds == fold), number]
            for side, side_folds in zip(sides, own, strict=True)
        ]
        for fit in (True, False)
    )
    if all((side == fitted[0][0]).all() for side in fitted):
        return 0.5  # a head that was pruned gives the same for every text
    probe = fit_methods().named("probe")
    axis = probe.direction(fitted[0], fitted[1], probe.settings({}))
    return auc(tested[0] @ axis, tested[1] @ axis)
