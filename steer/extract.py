"""Contrasts to recorded activations: what is read of which passage, and what is still to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from steer.activations import Activations, Recording, resume
from steer.contrasts import Contrasts
from steer.errors import InputError
from steer.model import Model
from steer.overlap import sketch, texts_of
from steer.provenance import ContrastSummary, Positions, Read
from steer.reading import DEFAULT_POSITIONS, Reading, readings
from steer.record import record
from steer.sites import Site, SiteName


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """What to read. `layers` None means all; `positions` None means the kind's default."""

    site: SiteName = "resid_post"
    layers: tuple[int, ...] | None = None
    positions: Positions | None = None


def record_contrasts(
    model: Model,
    contrasts: Contrasts,
    settings: ReadSettings,
    path: Path,
    on_progress: Callable[[int], None] = lambda n_passages: None,
) -> Activations:
    """Record both sides into the file at `path`, going on where an equal recording stopped.

    Batches depend on all passages, not on those still to do, so a run that was killed gives the
    same numbers as one that was not. `on_progress` is called with the number of passages just done.

    Raises:
        InputError: a passage longer than the model takes.
        SiteError: a layer or site that the model does not have.
        SteerError: the file cannot be written.
    """
    positions = settings.positions or DEFAULT_POSITIONS[contrasts.kind]
    sites = _sites(model, settings)
    passages = _readings(model, contrasts, positions)
    found = resume(path, _recording(model, contrasts, positions, sites))
    done = found.done()
    on_progress(int(done.sum()))
    unfinished = lambda indices: not done[indices].all()  # noqa: E731  (a name for the reader)
    for batch in record(model, passages, sites, wanted=unfinished):
        found.put(batch.indices, batch.activations, batch.norms)
        on_progress(int((~done[batch.indices]).sum()))
    return found


def _recording(
    model: Model, contrasts: Contrasts, positions: Positions, sites: Sequence[Site]
) -> Recording:
    positive, negative = contrasts.conditions or (None, None)
    n = len(contrasts.pairs)
    summary = ContrastSummary(
        kind=contrasts.kind,
        n=n,
        sha256=contrasts.sha256,
        positive=positive,
        negative=negative,
        items=sketch(texts_of(contrasts)),
    )
    return Recording(
        model=model.identity,
        contrast=summary,
        read=Read(positions=positions),
        sites=tuple(sites),
        n_positive=n,
        n_negative=n,
        paired=True,
    )


def _sites(model: Model, settings: ReadSettings) -> list[Site]:
    """The sites to read, `resid_pre` as `resid_post` of the layer before unless the embeddings
    are among them."""
    layers = settings.layers if settings.layers is not None else tuple(range(model.n_layers))
    asked = [Site(layer, settings.site) for layer in layers]
    canonical = [site.canonical for site in asked]
    sites = canonical if len({site.name for site in canonical}) == 1 else asked
    for site in sites:
        model.hooks.place(site)
    return sites


def _readings(model: Model, contrasts: Contrasts, positions: Positions) -> list[Reading]:
    """What to read of each passage: all positive sides, then all negative ones."""
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
    return [side for side, _ in both] + [side for _, side in both]
