"""Contrasts to a steering vector: record both sides, fit, and say how well it separates them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steer import fit
from steer.contrasts import Contrasts
from steer.errors import InputError
from steer.fit import rounded
from steer.metadata import (
    ContrastSummary,
    LayerStatistics,
    Metadata,
    Method,
    Positions,
    Read,
    Recommended,
    Spread,
)
from steer.model import Model
from steer.reading import DEFAULT_POSITIONS, Reading, readings
from steer.record import record
from steer.sites import Site, SiteName
from steer.vector import SteeringVector

#: Pairs whose activations are kept for the held-out test and the projections; enough to tell an
#: AUC to about 0.03, and few enough to fit in memory for any model.
KEPT_PAIRS = 256

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class ExtractSettings:
    """What to read. `layers` None means all; `positions` None means the kind's default.

    `name`, `description` and `license` go into the file as they are.
    """

    name: str
    site: SiteName = "resid_post"
    layers: tuple[int, ...] | None = None
    positions: Positions | None = None
    description: str = ""
    license: str = ""


def extract(
    model: Model,
    contrasts: Contrasts,
    settings: ExtractSettings,
    on_progress: Progress = lambda n_passages: None,
) -> SteeringVector:
    """Mean difference of the two sides at each layer, with its statistics.

    `on_progress` is called with the number of passages just read.

    Raises:
        InputError: a passage longer than the model takes, or sides that are the same to it.
        SiteError: a layer or site that the model does not have.
    """
    layers = settings.layers if settings.layers is not None else tuple(range(model.n_layers))
    sites = _canonical([Site(layer, settings.site) for layer in layers])
    for site in sites:
        model.hooks.place(site)
    positions = settings.positions or DEFAULT_POSITIONS[contrasts.kind]
    sides = _readings(model, contrasts, positions)
    moments = fit.Moments(len(sites), model.identity.d_model)
    kept = np.unique(np.linspace(0, len(contrasts.pairs) - 1, KEPT_PAIRS).astype(np.int64))
    sample = _record(model, sides, sites, moments, kept, on_progress)
    directions = moments.mean_diff().astype(np.float32)
    if not directions.any():
        raise InputError(
            "the two sides give the same activations: there is no direction",
            hint="do they differ before the tokens that are read?",
        )
    statistics = _statistics(sites, moments, directions, kept, sample)
    conditions = contrasts.conditions or (None, None)
    metadata = Metadata(
        name=settings.name,
        description=settings.description,
        license=settings.license,
        model=model.identity,
        site=sites[0].name,
        layers=tuple(site.layer for site in sites),
        method=Method(name="mean_diff"),
        read=Read(positions=positions),
        contrast=ContrastSummary(
            kind=contrasts.kind,
            n=len(contrasts.pairs),
            sha256=contrasts.sha256,
            positive=conditions[0],
            negative=conditions[1],
        ),
        statistics=statistics,
        recommended=recommend(statistics),
    )
    return SteeringVector(metadata, directions)


def recommend(statistics: Sequence[LayerStatistics]) -> Recommended:
    """A layer to start from when nothing has been tried: no substitute for a sweep.

    Among the layers that separate held-out pairs about as well as the best one, the first whose
    vector is long beside its activations (at least nine tenths of the longest share): early
    enough that the layers above can act on it.
    """
    best = max(row.separability or 0.0 for row in statistics)
    apart = [row for row in statistics if (row.separability or 0.0) >= best - 0.02]
    longest = max(row.share for row in apart)
    chosen = next(row for row in apart if row.share >= 0.9 * longest)
    return Recommended(
        layers=(chosen.layer,),
        coefficient=1.0,
        evidence="separability and length at extraction; no sweep was run",
    )


def _canonical(sites: Sequence[Site]) -> list[Site]:
    """`resid_pre` as `resid_post` of the layer before, unless the embeddings are among them."""
    canonical = [site.canonical for site in sites]
    return canonical if len({site.name for site in canonical}) == 1 else list(sites)


def _readings(
    model: Model, contrasts: Contrasts, positions: Positions
) -> tuple[list[Reading], list[Reading]]:
    positive = model.encode_passages([pair.positive for pair in contrasts.pairs])
    negative = model.encode_passages([pair.negative for pair in contrasts.pairs])
    both = [
        readings(p, n, contrasts.kind, positions) for p, n in zip(positive, negative, strict=True)
    ]
    longest = max(range(len(both)), key=lambda index: max(len(side.ids) for side in both[index]))
    length = max(len(side.ids) for side in both[longest])
    if model.context is not None and length > model.context:
        raise InputError(
            f"pair {longest + 1} has {length:,} tokens, and {model.identity.id} takes"
            f" {model.context:,}",
            hint="shorten it, or leave it out",
        )
    return [side for side, _ in both], [side for _, side in both]


def _record(
    model: Model,
    sides: tuple[list[Reading], list[Reading]],
    sites: Sequence[Site],
    moments: fit.Moments,
    kept: NDArray[np.int64],
    on_progress: Progress,
) -> NDArray[np.float64]:
    """Fill `moments`; return the activations of the kept pairs, [2, n_kept, n_sites, d_model]."""
    n = len(sides[0])
    sample = np.zeros((2, len(kept), len(sites), model.identity.d_model))
    slot = {int(pair): index for index, pair in enumerate(kept)}
    for batch in record(model, [*sides[0], *sides[1]], sites):
        for row, index in enumerate(batch.indices):
            side, pair = divmod(index, n)
            activations = batch.activations[row].astype(np.float64)
            moments.add(pair, side, activations, batch.norms[row].astype(np.float64))
            if pair in slot:
                sample[side, slot[pair]] = activations
        on_progress(len(batch.indices))
    return sample


def _statistics(
    sites: Sequence[Site],
    moments: fit.Moments,
    directions: NDArray[np.float32],
    kept: NDArray[np.int64],
    sample: NDArray[np.float64],
) -> tuple[LayerStatistics, ...]:
    aucs = fit.separability(moments, kept, sample)
    units = fit.unit(directions.astype(np.float64))
    projections = np.einsum("snld,ld->lsn", sample, units)
    return tuple(
        LayerStatistics(
            layer=site.layer,
            norm=rounded(float(np.linalg.norm(directions[row]))),
            resid_norm=rounded(float(moments.resid_norm[row])),
            separability=None if aucs is None else rounded(float(aucs[row])),
            positive=spread(projections[row, 0]),
            negative=spread(projections[row, 1]),
        )
        for row, site in enumerate(sites)
    )


def spread(values: NDArray[np.float64]) -> Spread:
    return Spread(mean=rounded(float(values.mean())), std=rounded(float(values.std())))
