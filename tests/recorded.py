"""Contrasts to a vector in one step, for tests that look at the vector."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from steer.contrasts import ContrastPair, Contrasts, Passage
from steer.extract import ReadSettings, record_contrasts
from steer.fitting import FitSettings, fit_vector
from steer.model import Model
from steer.vector import SteeringVector


def extract(
    model: Model,
    contrasts: Contrasts,
    on_progress: Callable[[int], None] = lambda n_passages: None,
    method: Any = "mean_diff",
    **read: Any,
) -> SteeringVector:
    """What `steer extract` makes, under the name `x`."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "part"
        with record_contrasts(model, contrasts, ReadSettings(**read), path, on_progress) as found:
            return fit_vector(found, FitSettings(name="x", method=method))


def pairs(*texts: tuple[str, str]) -> Contrasts:
    """Pairs of positive and negative texts."""
    made = [ContrastPair(Passage("", p), Passage("", n)) for p, n in texts]
    return Contrasts("pairs", tuple(made))
