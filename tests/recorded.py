"""Contrasts to a vector in one step, for tests that look at the vector."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from steer.contrasts.contrasts import Contrasts
from steer.contrasts.passages import Passage
from steer.extraction import ReadSettings, plan, record_contrasts
from steer.fitting.fitting import FitSettings, best, fit_vectors
from steer.methods.registry import fit_methods
from steer.models.model import Model
from steer.vectors.positions import parse_list
from steer.vectors.vector import SteeringVector
from steer.workers import LocalWorker


def extract(
    model: Model,
    contrasts: Contrasts,
    on_progress: Callable[[int], None] = lambda n_passages: None,
    method: Any = "mean_diff",
    **read: Any,
) -> SteeringVector:
    """What `steer extract` makes, under the name `x`."""
    planned = plan(model, contrasts, settings(**read))
    with (
        TemporaryDirectory() as folder,
        record_contrasts(
            LocalWorker(model), planned, Path(folder) / "part", on_progress
        ) as recorded,
    ):
        return best(fit_vectors(recorded, FitSettings(name="x", method=method)))


def direction(method: str, positive: np.ndarray, negative: np.ndarray, **options: Any) -> Any:
    """The direction [d_model] that a method fits to activations [n, d_model] and [m, d_model]."""
    chosen = fit_methods().named(method)
    return chosen.direction(positive, negative, chosen.settings(options))


def settings(positions: str = "", site: str = "resid_post", layers: Any = None) -> ReadSettings:
    """As `steer extract` takes them."""
    chosen = parse_list(positions) if positions else ()
    return ReadSettings(tuple(site.split(",")), layers, chosen)  # type: ignore[arg-type]


def pairs(*texts: tuple[str, str]) -> Contrasts:
    """Pairs of positive and negative texts."""
    positive, negative = (tuple(Passage("", pair[side]) for pair in texts) for side in (0, 1))
    return Contrasts("pairs", positive, negative)
