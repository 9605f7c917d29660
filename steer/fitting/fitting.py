"""Make vectors from a recording: fit every site, add statistics, recommend a layer. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from steer.base.errors import InputError, SiteError, UsageError
from steer.fitting.activations import Activations, Recording
from steer.fitting.fit import Array, Mask, SiteFit, fit_site
from steer.fitting.parts import masks
from steer.methods.method import Options
from steer.methods.registry import fit_methods
from steer.vectors.metadata import LayerStatistics, Metadata, Recommendation, Spread
from steer.vectors.parts import Part, Parts, format_parts
from steer.vectors.provenance import Method, Read
from steer.vectors.sites import Site, SiteName, format_layers, listed
from steer.vectors.vector import SteeringVector

#: Held-out separabilities that differ by at most this are equivalent.
NEARLY = 0.02


@dataclass(frozen=True, slots=True)
class FitSettings:
    """The settings of a fit. sites, layers, positions: None means all that were recorded.

    method: a name of `steer.methods.registry.fit_methods`. options: the method's options that the
    user sets. name, description, license: for the file. keep: of attention heads or experts, how
    many to keep, or which; by default one of 20.
    """

    name: str
    method: str = "mean_diff"
    sites: tuple[SiteName, ...] | None = None
    layers: tuple[int, ...] | None = None
    positions: tuple[str, ...] | None = None
    description: str = ""
    license: str = ""
    options: Options = field(default_factory=dict)
    keep: int | tuple[Part, ...] | None = None


def fit_vectors(
    activations: Activations,
    settings: FitSettings,
    on_progress: Callable[[int], None] = lambda n_columns: None,
) -> list[SteeringVector]:
    """A vector for each of the requested site names and positions, with its statistics.

    `on_progress` is called with the number of columns just fitted.

    Raises:
        SiteError: a site, layer or part that was not recorded.
        InputError: a position that was not, or too few texts for the method.
        UsageError: no such method or option.
    """
    recording = activations.recording
    method = fit_methods().named(settings.method)
    options = method.settings(settings.options)
    lengths = activations.lengths().mean(0, dtype=np.float64)
    vectors = []
    parts = recording.parts if isinstance(recording.parts, Parts) else None
    if parts is None and settings.keep is not None:
        raise UsageError(
            "only attention heads and experts are chosen", hint="add --site heads or --site router"
        )
    for read, every_column in _columns(recording, settings):
        used: dict[int, Mask | None] = dict.fromkeys(every_column)
        if parts is not None:
            used = {**masks(activations, every_column, settings.keep)}
        fits = []
        for column, mask in used.items():
            fits.append(fit_site(activations, column, method, options, mask))
            on_progress(1)
        on_progress(len(every_column) - len(used))
        columns = list(used)
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
            parts=parts,
            layers=tuple(site.layer for site in sites),
            method=Method(name=method.name, options=options, package=method.package or ""),
            read=read,
            contrast=recording.contrast,
            statistics=statistics,
            recommended=msgspec.structs.replace(
                recommend(statistics, recording.model.n_layers)
                if parts is None
                else _recommend_parts(statistics, [used[column] for column in columns], parts),
                # What was read at the one token before an answer is added there.
                scope="response=0" if read.chat is True and read.at_end else None,
            ),
        )
        vectors.append(SteeringVector(metadata, directions))
    return vectors


def best(vectors: Sequence[SteeringVector]) -> SteeringVector:
    """The best of vectors for several sites and positions; its evidence records the comparison.

    By the recommended layer of each, as in `recommend`: among those that separate held-out texts
    about as well as the best, of the first site (lengths at different sites are not comparable),
    the one that is longest relative to its activations. Positions before the last token lose to the
    last token, since only that predicts what follows.

    Raises:
        InputError: no vector has a direction.
    """
    nonzero = [vector for vector in vectors if vector.directions.any()]
    if not nonzero:
        raise InputError(
            "the two sides give the same activations: there is no direction",
            hint="check that they differ before the tokens that are read",
        )
    if len(vectors) == 1:
        return vectors[0]

    def row(vector: SteeringVector) -> LayerStatistics:
        return vector.metadata.at(vector.metadata.recommended.layers[0])

    top = max(row(vector).separability or 0.0 for vector in nonzero)
    apart = [vector for vector in nonzero if (row(vector).separability or 0.0) >= top - NEARLY]
    first = [vector for vector in apart if vector.metadata.site == apart[0].metadata.site]
    if any(vector.metadata.read.at_end for vector in first):
        first = [vector for vector in first if not vector.metadata.read.before_end]
    chosen = max(first, key=lambda vector: row(vector).share)
    recommended = chosen.metadata.recommended
    evidence = f"{recommended.evidence}; {len(vectors)} sites and positions were compared"
    metadata = msgspec.structs.replace(
        chosen.metadata, recommended=msgspec.structs.replace(recommended, evidence=evidence)
    )
    return SteeringVector(metadata, chosen.directions)


def recommend(statistics: Sequence[LayerStatistics], n_layers: int) -> Recommendation:
    """A layer to start from without a sweep.

    Among the layers that separate held-out texts about as well as the best one, the first whose
    vector is long relative to its activations (at least nine tenths of the longest share): early
    enough that the layers above can act on it. The last fifth of the model is left out if earlier
    layers separate as well, since lengths grow there and few layers are left that could act
    (Arditi et al. 2024, arXiv 2406.11717, appendix C, leave it out too).
    """
    top = max(row.separability or 0.0 for row in statistics)
    apart = [row for row in statistics if (row.separability or 0.0) >= top - NEARLY]
    apart = [row for row in apart if row.layer < 0.8 * n_layers] or apart
    longest = max(row.share for row in apart)
    chosen = next(row for row in apart if row.share >= 0.9 * longest)
    return Recommendation(
        layers=(chosen.layer,),
        coefficient=1.0,
        evidence="separability and length at extraction; no sweep was run",
    )


def _recommend_parts(
    statistics: Sequence[LayerStatistics], used: Sequence[Mask | None], parts: Parts
) -> Recommendation:
    """All parts that were kept, together."""
    chosen = [
        Part(row.layer, int(number))
        for row, mask in zip(statistics, used, strict=True)
        if mask is not None
        for number in np.flatnonzero(mask.reshape(parts.n, parts.width).any(1))
    ]
    return Recommendation(
        layers=tuple(row.layer for row in statistics),
        coefficient=1.0,
        evidence=f"all parts that were kept: {format_parts(chosen)}; no sweep was run",
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
    columns = []
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
                columns.append((read, [start + recording.sites.index(site) for site in sites]))
    return columns


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
    """A number rounded to six significant digits; more depend on the order of additions."""
    return float(f"{value:.6g}")
