"""A recording to a steering vector: fit every site, describe it, recommend a layer. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from steer.activations import Activations
from steer.errors import InputError, SiteError
from steer.fit import Array, SiteFit, fit_site
from steer.metadata import LayerStatistics, Metadata, Recommended, Spread
from steer.provenance import FitMethod, Method
from steer.sites import Site, SiteName, format_layers, listed
from steer.vector import SteeringVector


@dataclass(frozen=True, slots=True)
class FitSettings:
    """What to make of a recording. `site` and `layers` None mean all that were recorded.

    `name`, `description` and `license` go into the file as they are.
    """

    name: str
    method: FitMethod = "mean_diff"
    site: SiteName | None = None
    layers: tuple[int, ...] | None = None
    description: str = ""
    license: str = ""


def fit_vector(
    found: Activations,
    settings: FitSettings,
    on_progress: Callable[[int], None] = lambda n_sites: None,
) -> SteeringVector:
    """Fit the sites that are asked for, with what is known about each.

    `on_progress` is called with the number of sites just fitted.

    Raises:
        SiteError: a site or layer that was not recorded.
        InputError: sides that are the same, or too few texts for the method.
    """
    recording = found.recording
    columns = _columns(recording.sites, settings)
    lengths = found.lengths().mean(0, dtype=np.float64)
    fits = []
    for column in columns:
        fits.append(fit_site(found, column, settings.method))
        on_progress(1)
    directions = np.stack([fit.direction for fit in fits]).astype(np.float32)
    if not directions.any():
        raise InputError(
            "the two sides give the same activations: there is no direction",
            hint="do they differ before the tokens that are read?",
        )
    sites = [recording.sites[column] for column in columns]
    statistics = tuple(
        _statistics(site, fit, float(lengths[column]))
        for site, fit, column in zip(sites, fits, columns, strict=True)
    )
    metadata = Metadata(
        name=settings.name,
        description=settings.description,
        license=settings.license,
        model=recording.model,
        site=sites[0].name,
        layers=tuple(site.layer for site in sites),
        method=Method(name=settings.method),
        read=recording.read,
        contrast=recording.contrast,
        statistics=statistics,
        recommended=recommend(statistics),
    )
    return SteeringVector(metadata, directions)


def recommend(statistics: Sequence[LayerStatistics]) -> Recommended:
    """A layer to start from when nothing has been tried: no substitute for a sweep.

    Among the layers that separate held-out texts about as well as the best one, the first whose
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


def warnings(vector: SteeringVector) -> list[str]:
    """What the statistics say against a vector, each with what to try; none if nothing does."""
    rows = vector.metadata.statistics
    known = [row.separability for row in rows if row.separability is not None]
    found = []
    if not known:
        found.append(
            "too few texts to tell whether the vector separates new ones; ten a side or more would"
        )
    elif max(known) < _chance(vector.metadata.contrast.n):
        found.append(
            f"the vector separates held-out texts no better than chance (AUC {max(known):.2f} at"
            " best); are the labels right, and is the difference at the positions that are read?"
        )
    coherence = [row.coherence for row in rows if row.coherence is not None]
    if coherence and known and max(coherence) < 0.1:
        found.append(
            f"the pairs differ in many directions (coherence {max(coherence):.2f} at best), which"
            " predicts that some texts are steered the wrong way; more alike pairs may help"
        )
    return found


def _chance(n: int) -> float:
    """The AUC that noise of n against n texts seldom passes: 0.5 and 3 standard deviations."""
    return 0.5 + 3 * float(np.sqrt((2 * n + 1) / (12 * n * n)))


def _columns(recorded: Sequence[Site], settings: FitSettings) -> list[int]:
    name = settings.site or recorded[0].name
    at_site = {site.layer: column for column, site in enumerate(recorded) if site.name == name}
    if not at_site:
        names = listed(sorted({site.name for site in recorded}))
        raise SiteError(f"{name} was not recorded", hint=f"there is {names}")
    missing = sorted(set(settings.layers or ()) - set(at_site))
    if missing:
        raise SiteError(
            f"{name} was not recorded at layer {format_layers(missing)}",
            hint=f"there are layers {format_layers(at_site)}",
        )
    chosen = sorted(at_site) if settings.layers is None else settings.layers
    return [at_site[layer] for layer in chosen]


def _statistics(site: Site, fit: SiteFit, resid_norm: float) -> LayerStatistics:
    return LayerStatistics(
        layer=site.layer,
        norm=rounded(float(np.linalg.norm(fit.direction))),
        resid_norm=rounded(resid_norm),
        positive=spread(fit.projections[0]),
        negative=spread(fit.projections[1]),
        separability=None if fit.separability is None else rounded(fit.separability),
        coherence=None if fit.coherence is None else rounded(fit.coherence),
        agreement=rounded(fit.agreement),
    )


def spread(values: Array) -> Spread:
    """Mean and standard deviation of projections."""
    return Spread(mean=rounded(float(values.mean())), std=rounded(float(values.std())))


def rounded(value: float) -> float:
    """Six significant digits: more would only record in which order a CPU added numbers."""
    return float(f"{value:.6g}")
