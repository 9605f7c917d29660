"""Make vectors from a contrast set: choose the tokens to read, record activations, fit vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from steer.base.errors import InputError, SiteError, SteerError
from steer.base.processes import follows
from steer.base.progress import Progress, silent
from steer.contrasts import check, reading
from steer.contrasts.contrasts import Contrasts
from steer.contrasts.overlap import sketch, texts_of
from steer.contrasts.reading import Readings, Tokens
from steer.fitting.activations import Activations, Recording, discard, resume
from steer.fitting.fitting import FitSettings, best, fit_vectors
from steer.hooks.record import ReadingBatch, Recorder, in_batches, readings_of
from steer.methods.registry import check_paired, fit_methods
from steer.models.model import Model
from steer.resuming import run_key
from steer.vectors.giveaways import Giveaways
from steer.vectors.positions import Position
from steer.vectors.provenance import SEVERAL, ContrastSummary, Read
from steer.vectors.sites import Site, SiteName, listed
from steer.vectors.vector import SteeringVector
from steer.workers import Workers, once


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """The activations to read. layers: None means all. positions: None in it means the template's
    suffix; empty means the default for the contrasts."""

    sites: tuple[SiteName, ...] = ("resid_post",)
    layers: tuple[int, ...] | None = None
    positions: tuple[Position | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """The contents of a recording, and the passages to read for it.

    described: one line about the model.
    """

    recording: Recording
    readings: Readings
    described: str


@dataclass(frozen=True, slots=True)
class ExtractedVectors:
    """Vectors fitted to one contrast set.

    best: the vector of the site and position that separate held-out texts best. compared: the
    vectors of all sites and positions, including the best. described: one line about the model.
    """

    best: SteeringVector
    compared: tuple[SteeringVector, ...]
    described: str


def extract(
    workers: Workers,
    contrasts: Contrasts,
    read: ReadSettings,
    fit: FitSettings,
    *,
    part: Path | None = None,
    keep: Path | None = None,
    progress: Progress = silent,
) -> ExtractedVectors:
    """Record the activations of both sides of `contrasts` and fit vectors to them.

    part: the file of activations during the recording, from which an interrupted run is resumed,
    with the same results; by default in a temporary folder. keep: the file for the finished
    activations, for `steer.fitting.fitting.fit_vectors`.

    Raises:
        InputError: a passage longer than the model takes, or without a token at a position.
        SiteError: a layer or site that the model does not have.
        HookError: a site was never reached.
        VectorError: too few texts, or sides that do not differ.
        SteerError: the activations cannot be written.
    """
    [extracted] = extract_each(
        workers, contrasts, read, [fit], part=part, keep=keep, progress=progress
    )
    return extracted


def extract_each(
    workers: Workers,
    contrasts: Contrasts,
    read: ReadSettings,
    fits: Sequence[FitSettings],
    *,
    part: Path | None = None,
    keep: Path | None = None,
    progress: Progress = silent,
) -> list[ExtractedVectors]:
    """`extract` by several methods, from one recording.

    Raises:
        SteerError: as `extract`.
    """
    reading.check_positions(contrasts, read.positions)
    for fit in fits:
        check_paired(fit_methods().named(fit.method), paired=contrasts.paired)
    resumable = part is not None or keep is not None
    planned = once(workers, partial(plan, contrasts=contrasts, settings=read, resumable=resumable))
    del contrasts  # the plan has their tokens, and the texts take much memory
    with _part(part, keep) as path:
        with progress("reading", len(planned.readings)) as advance:
            activations = record_contrasts(workers, planned, path, advance)
        extracted = []
        with activations:
            n_columns = len(fits) * len(activations.recording.columns)
            with progress("fitting", n_columns) as advance:
                for fit in fits:
                    vectors = tuple(fit_vectors(activations, fit, advance))
                    extracted.append(ExtractedVectors(best(vectors), vectors, planned.described))
    return extracted


@contextmanager
def _part(part: Path | None, keep: Path | None) -> Iterator[Path]:
    """The file of a recording, which is removed at the end unless `keep` is given.

    A run that is killed or fills the disk leaves the file behind, to be resumed. A run that the
    user interrupts leaves it only with `keep`.
    """
    if part is None and keep is None:
        with TemporaryDirectory() as folder:
            yield Path(folder) / "activations"
        return
    target = part or Path(f"{keep}.part")
    try:
        yield target
    except (KeyboardInterrupt, SteerError) as error:
        if keep is None and not isinstance(error.__cause__, OSError):
            discard(target)
        raise
    if keep is None or follows():
        discard(target)
    else:
        target.replace(keep)


def plan(
    model: Model, contrasts: Contrasts, settings: ReadSettings, *, resumable: bool = True
) -> Plan:
    """Plan a recording: the tokens of each passage, and the spans to read.

    resumable: whether the recording gets the key of its run, for which every weight is read.

    Raises:
        InputError: a passage longer than the model takes, or without a token at a position.
        SiteError: a layer or site that the model does not have, or sites of different widths.
        ModelError: the model has no chat template, or it refuses the messages.
    """
    sites = _sites(model, settings)
    requested = settings.positions or (reading.default_position(contrasts),)
    reading.check_positions(contrasts, requested)
    markers = [each.marker for each in requested if each is not None and each.marker]
    tokens = (
        model.encode_passages(contrasts.positive, markers),
        model.encode_passages(contrasts.negative, markers),
    )
    _check_lengths(model, tokens)
    positions = _expanded(requested, tokens)
    from_difference = contrasts.paired and contrasts.kind != "conditions"
    readings = Readings(*tokens, positions, from_difference=from_difference)
    giveaways = check.giveaways(contrasts, tokens)
    recording = _recording(model, contrasts, positions, sites, giveaways)
    if resumable:
        # A recording that was begun with other weights, tokens or precision is not resumed.
        run = run_key(model, msgspec.to_builtins(recording), _digest(readings))
        recording = msgspec.structs.replace(recording, run=run)
    return Plan(recording, readings, model.describe())


def record_contrasts(
    workers: Workers,
    planned: Plan,
    path: Path,
    on_progress: Callable[[int], None] = lambda n_passages: None,
) -> Activations:
    """Record both sides into the file at `path`, or resume an equal recording there.

    Batches depend only on the passages, so an interrupted run, or one with several workers, gives
    the same numbers as any other. `on_progress` is called with the number of passages just done.

    Raises:
        HookError: a site was never reached.
        SteerError: the file cannot be written.
    """
    with ExitStack() as stack:
        activations = stack.enter_context(resume(path, planned.recording))
        done = activations.done()
        on_progress(int(done.sum()))
        divided = once(workers, partial(in_batches, readings=planned.readings))
        ahead = (
            ReadingBatch.of(rows, planned.readings)
            for rows in divided
            if not done[readings_of(rows)].all()
        )
        for _, parts in workers.map(partial(Recorder, sites=planned.recording.sites), ahead):
            for part in parts:
                activations.put(part.indices, part.activations, part.norms)
                on_progress(int((~done[part.indices]).sum()))
        stack.pop_all()  # it stays open for the caller
        return activations


def _recording(
    model: Model,
    contrasts: Contrasts,
    positions: Sequence[Position],
    sites: Sequence[Site],
    giveaways: Giveaways,
) -> Recording:
    positive, negative = contrasts.conditions or (None, None)
    n, m = len(contrasts.positive), len(contrasts.negative)
    summary = ContrastSummary(
        kind=contrasts.kind,
        n=n,
        sha256=contrasts.sha256,
        positive=None if positive is None else SEVERAL.join(positive),
        negative=None if negative is None else SEVERAL.join(negative),
        n_negative=msgspec.UNSET if contrasts.paired else m,
        items=sketch(texts_of(contrasts)),
        giveaways=giveaways,
    )
    frame = contrasts.frame
    chat = contrasts.positive[0].role is not None
    reads = tuple(
        Read(
            positions=str(position),
            chat=chat or msgspec.UNSET,
            system=msgspec.UNSET if frame.system is None else frame.system,
            template=msgspec.UNSET if frame.template is None else frame.template,
            **(model.template.recorded if chat else {}),
        )
        for position in positions
    )
    # Of conditions, where each stands before each text once, every passage is of its own text.
    plain = contrasts.records is None or contrasts.records == n == m
    return Recording(
        model=model.identity,
        contrast=summary,
        reads=reads,
        sites=tuple(sites),
        n_positive=n,
        n_negative=m,
        paired=contrasts.paired,
        records=msgspec.UNSET if plain else contrasts.records or msgspec.UNSET,
        parts=model.hooks.parts.get(sites[0].name, msgspec.UNSET),
        format=1 if plain else 2,
        dtype=str(model.network.dtype).removeprefix("torch."),
    )


def _digest(readings: Readings) -> str:
    """A hash of the tokens and spans of all passages."""
    digest = hashlib.sha256()
    for passage in readings:
        digest.update(f"{list(passage.ids)} {passage.spans}\n".encode())
    return digest.hexdigest()


def _sites(model: Model, settings: ReadSettings) -> list[Site]:
    """The sites to read, each once: `resid_pre` as `resid_post` of the layer before, unless the
    embeddings are among them."""
    layers = settings.layers if settings.layers is not None else tuple(range(model.n_layers))
    sites: dict[Site, None] = {}
    for name in settings.sites:
        named = [Site(layer, name) for layer in layers]
        canonical = [site.canonical for site in named]
        one_name = len({site.name for site in canonical}) == 1
        sites.update(dict.fromkeys(canonical if one_name else named))
    for site in sites:
        model.hooks.place(site)
    if len({model.hooks.parts.get(site.name) for site in sites}) > 1:
        raise SiteError(
            f"activations of {listed(settings.sites)} have different widths",
            hint="read them in separate runs",
        )
    return list(sites)


def _expanded(
    requested: Sequence[Position | None], tokens: tuple[Sequence[Tokens], Sequence[Tokens]]
) -> list[Position]:
    """Positions, with `suffix` replaced by one for each token of the template's suffix."""
    positions: dict[Position, None] = {}
    for position in requested:
        if position is None:
            n = min(map(reading.suffix_length, tokens))
            if n == 0:
                raise InputError("the chat template puts no token after these texts")
            positions.update(dict.fromkeys(Position("index", index) for index in range(-n, 0)))
        else:
            positions[position] = None
    return list(positions)


def _check_lengths(model: Model, tokens: tuple[Sequence[Tokens], Sequence[Tokens]]) -> None:
    """Refuse passages that are longer than the model takes; the longest is named."""
    for name, side in zip(("positive", "negative"), tokens, strict=True):
        longest = max(range(len(side)), key=lambda index: len(side[index].ids))
        length = len(side[longest].ids)
        if model.context is not None and length > model.context:
            raise InputError(
                f"{name} text {longest + 1} has {length:,} tokens, but {model.identity.id} takes"
                f" {model.context:,}",
                hint=f"shorten or leave out {_too_long(side, model.context)}",
            )


def _too_long(side: Sequence[Tokens], context: int) -> str:
    """`it`, or the number of texts that are too long."""
    n = sum(len(tokens.ids) > context for tokens in side)
    return "it" if n == 1 else f"all {n:,} texts that are too long"
