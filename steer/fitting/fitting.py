"""A recording to a steering vector: fit every site, describe it, recommend a layer. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from steer.base.errors import InputError, SiteError
from steer.fitting.activations import Activations, Recording
from steer.fitting.fit import Array, SiteFit, fit_site
from steer.methods.method import Options
from steer.methods.registry import fit_methods
from steer.vectors.metadata import LayerStatistics, Metadata, Recommended, Spread
from steer.vectors.provenance import Method, Read
from steer.vectors.sites import Site, SiteName, format_layers, listed
from steer.vectors.vector import SteeringVector

#: Held-out separabilities that differ by no more say the same.
NEARLY = 0.02


@dataclass(frozen=True, slots=True)
class FitSettings:
    """What to make of a recording. `sites`, `layers` and `positions` None mean all of it.

    method: a name of `steer.methods.registry.fit_methods`; options: those of the method that are
    set. `name`, `description` and `license` go into the file as they are.
    """

    name: str
    method: str = "mean_diff"
    sites: tuple[SiteName, ...] | None = None
    layers: tuple[int, ...] | None = None
    positions: tuple[str, ...] | None = None
    description: str = ""
    license: str = ""
    options: Options = field(default_factory=dict)


def fit_vectors(
    found: Activations,
    settings: FitSettings,
    on_progress: Callable[[int], None] = lambda n_columns: None,
) -> list[SteeringVector]:
    """A vector for each site name and position that is asked for, with what is known about it.

    `on_progress` is called with the number of columns just fitted.

    Raises:
        SiteError: a site or layer that was not recorded.
        InputError: a position that was not, or too few texts for the method.
        UsageError: no such method or option.
    """
    recording = found.recording
    method = fit_methods().named(settings.method)
    options = method.settings(settings.options)
    lengths = found.lengths().mean(0, dtype=np.float64)
    made = []
    for read, columns in _columns(recording, settings):
        fits = []
        for column in columns:
            fits.append(fit_site(found, column, method, options))
            on_progress(1)
        directions = np.stack([fit.direction for fit in fits]).astype(np.float32)
        sites = [recording.columns[column][1] for column in columns]
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
            method=Method(name=method.name, options=options, package=method.package or ""),
            read=read,
            contrast=recording.contrast,
            statistics=statistics,
            recommended=recommend(statistics),
        )
        made.append(SteeringVector(metadata, directions))
    return made


def best(vectors: Sequence[SteeringVector]) -> SteeringVector:
    """Of vectors for several sites and positions the one to start from; its file says that it was
    chosen.

    As `recommend`, by its recommended layer: among those that separate held-out texts about as well
    as the best, of the site that comes first (lengths at different sites do not compare), the one
    that is longest beside its activations. What was read before the last token loses to what was
    read there: what comes next is made of the last token's activations alone.

    Raises:
        InputError: none has a direction.
    """
    there = [vector for vector in vectors if vector.directions.any()]
    if not there:
        raise InputError(
            "the two sides give the same activations: there is no direction",
            hint="do they differ before the tokens that are read?",
        )
    if len(vectors) == 1:
        return vectors[0]

    def row(vector: SteeringVector) -> LayerStatistics:
        return vector.metadata.at(vector.metadata.recommended.layers[0])

    top = max(row(vector).separability or 0.0 for vector in there)
    apart = [one for one in there if (row(one).separability or 0.0) >= top - NEARLY]
    first = [one for one in apart if one.metadata.site == apart[0].metadata.site]
    if any(one.metadata.read.at_end for one in first):
        first = [one for one in first if not one.metadata.read.before_end]
    chosen = max(first, key=lambda vector: row(vector).share)
    recommended = chosen.metadata.recommended
    evidence = f"{recommended.evidence}; {len(vectors)} sites and positions were compared"
    metadata = msgspec.structs.replace(
        chosen.metadata, recommended=msgspec.structs.replace(recommended, evidence=evidence)
    )
    return SteeringVector(metadata, chosen.directions)


def recommend(statistics: Sequence[LayerStatistics]) -> Recommended:
    """A layer to start from when nothing has been tried: no substitute for a sweep.

    Among the layers that separate held-out texts about as well as the best one, the first whose
    vector is long beside its activations (at least nine tenths of the longest share): early
    enough that the layers above can act on it.
    """
    top = max(row.separability or 0.0 for row in statistics)
    apart = [row for row in statistics if (row.separability or 0.0) >= top - NEARLY]
    longest = max(row.share for row in apart)
    chosen = next(row for row in apart if row.share >= 0.9 * longest)
    return Recommended(
        layers=(chosen.layer,),
        coefficient=1.0,
        evidence="separability and length at extraction; no sweep was run",
    )


def _columns(recording: Recording, settings: FitSettings) -> list[tuple[Read, list[int]]]:
    """For each position and site name, its columns by rising layer."""
    reads = [read.positions for read in recording.reads]
    for position in settings.positions or ():
        if position not in reads:
            raise InputError(
                f"position {position} was not recorded", hint=f"there is {listed(reads)}"
            )
    recorded = list(dict.fromkeys(site.name for site in recording.sites))
    found = []
    for name in settings.sites or recorded:
        if name not in recorded:
            raise SiteError(f"{name} was not recorded", hint=f"there is {listed(recorded)}")
        layers = sorted(site.layer for site in recording.sites if site.name == name)
        if missing := sorted(set(settings.layers or ()) - set(layers)):
            raise SiteError(
                f"{name} was not recorded at layer {format_layers(missing)}",
                hint=f"there are layers {format_layers(layers)}",
            )
        for index, read in enumerate(recording.reads):
            if settings.positions is None or read.positions in settings.positions:
                start = index * len(recording.sites)
                sites = [Site(layer, name) for layer in settings.layers or layers]
                found.append((read, [start + recording.sites.index(site) for site in sites]))
    return found


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
