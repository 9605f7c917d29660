"""From a contrast set to steering vectors: which tokens are read, recorded and fitted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from steer.base.errors import InputError, SteerError
from steer.base.processes import follows
from steer.base.progress import Progress, silent
from steer.contrasts import check, reading
from steer.contrasts.contrasts import Contrasts
from steer.contrasts.overlap import sketch, texts_of
from steer.contrasts.reading import Readings, Tokens
from steer.fitting.activations import Activations, Recording, discard, resume
from steer.fitting.fit import check_method
from steer.fitting.fitting import FitSettings, best, fit_vectors
from steer.hooks.record import Batch, Recorder, in_batches, readings_of
from steer.models.model import Model
from steer.resuming import run_key
from steer.vectors.giveaways import Giveaways
from steer.vectors.positions import Position
from steer.vectors.provenance import SEVERAL, ContrastSummary, Read
from steer.vectors.sites import Site, SiteName
from steer.vectors.vector import SteeringVector
from steer.workers import Workers, once


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """What to read. `layers` None means all; None among `positions` means the template's suffix,
    and no positions the default for the contrasts."""

    sites: tuple[SiteName, ...] = ("resid_post",)
    layers: tuple[int, ...] | None = None
    positions: tuple[Position | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a recording will hold, and what is read for it.

    described: the model, for the line that says what was used.
    """

    recording: Recording
    readings: Readings
    described: str


@dataclass(frozen=True, slots=True)
class Extracted:
    """Vectors fitted to one contrast set.

    best: the vector of the site and position that separate held-out texts best. compared: the
    vectors of all sites and positions, best among them. described: the model, for a line that says
    what was used.
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
) -> Extracted:
    """Record the activations of both sides of `contrasts` and fit vectors to them.

    part: where activations are written while they are recorded. A run that was killed goes on from
    there, to the same numbers. Without it they are in a temporary folder. keep: where the
    activations are put at the end, for `steer.fitting.fitting.fit_vectors`.

    Raises:
        InputError: a passage longer than the model takes, or without a token at a position.
        SiteError: a layer or site that the model does not have.
        HookError: a site was never reached.
        VectorError: too few texts, or sides that do not differ.
        SteerError: the activations cannot be written.
    """
    reading.check_positions(contrasts, read.positions)
    check_method(fit.method, paired=contrasts.paired)
    planned = once(workers, partial(plan, contrasts=contrasts, settings=read))
    del contrasts  # Their tokens are left; of many, the texts take more.
    with _part(part, keep) as path:
        with progress("reading", len(planned.readings)) as advance:
            activations = record_contrasts(workers, planned, path, advance)
        with activations:
            n_columns = len(activations.recording.columns)
            with progress("fitting", n_columns) as advance:
                vectors = fit_vectors(activations, fit, advance)
    return Extracted(best(vectors), tuple(vectors), planned.described)


@contextmanager
def _part(part: Path | None, keep: Path | None) -> Iterator[Path]:
    """The file of a recording, which goes when it has served, unless it is to be kept.

    A run that dies or fills the disk leaves it behind, and the same run goes on from it; one that
    the user interrupts leaves it only if it was to be kept.
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


def plan(model: Model, contrasts: Contrasts, settings: ReadSettings) -> Plan:
    """Find out what is to be read.

    Raises:
        InputError: a passage longer than the model takes, or without a token at a position.
        SiteError: a layer or site that the model does not have.
        ModelError: a chat template that there is not, or that refuses the messages.
    """
    sites = _sites(model, settings)
    asked = settings.positions or (reading.default_position(contrasts),)
    reading.check_positions(contrasts, asked)
    markers = [one.marker for one in asked if one is not None and one.marker]
    tokens = (
        model.encode_passages(contrasts.positive, markers),
        model.encode_passages(contrasts.negative, markers),
    )
    _check_lengths(model, tokens)
    positions = _expanded(asked, tokens)
    from_difference = contrasts.paired and contrasts.kind != "conditions"
    readings = Readings(*tokens, positions, from_difference=from_difference)
    told = check.giveaways(contrasts, tokens)
    recording = _recording(model, contrasts, positions, sites, told)
    # A recording that was begun with other weights, tokens or precision is another one.
    run = run_key(model, msgspec.to_builtins(recording), _digest(readings))
    recording = msgspec.structs.replace(recording, run=run)
    return Plan(recording, readings, model.describe())


def record_contrasts(
    workers: Workers,
    planned: Plan,
    path: Path,
    on_progress: Callable[[int], None] = lambda n_passages: None,
) -> Activations:
    """Record both sides into the file at `path`, going on where an equal recording stopped.

    Batches depend on all passages, not on those still to do nor on who does them, so a run that was
    killed, or that had many workers, gives the same numbers as any other. `on_progress` is called
    with the number of passages just done.

    Raises:
        HookError: a site was never reached.
        SteerError: the file cannot be written.
    """
    with ExitStack() as stack:
        found = stack.enter_context(resume(path, planned.recording))
        done = found.done()
        on_progress(int(done.sum()))
        made = once(workers, partial(in_batches, readings=planned.readings))
        ahead = (
            Batch.of(rows, planned.readings) for rows in made if not done[readings_of(rows)].all()
        )
        for _, parts in workers.map(partial(Recorder, sites=planned.recording.sites), ahead):
            for part in parts:
                found.put(part.indices, part.activations, part.norms)
                on_progress(int((~done[part.indices]).sum()))
        stack.pop_all()  # It stays open for who asked for it.
        return found


def _recording(
    model: Model,
    contrasts: Contrasts,
    positions: Sequence[Position],
    sites: Sequence[Site],
    told: Giveaways,
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
        giveaways=told,
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
        format=1 if plain else 2,
        dtype=str(model.network.dtype).removeprefix("torch."),
    )


def _digest(readings: Readings) -> str:
    """A hash of what is read: the tokens of each passage, and its spans."""
    digest = hashlib.sha256()
    for one in readings:
        digest.update(f"{list(one.ids)} {one.spans}\n".encode())
    return digest.hexdigest()


def _sites(model: Model, settings: ReadSettings) -> list[Site]:
    """The sites to read, each once: `resid_pre` as `resid_post` of the layer before, unless the
    embeddings are among them."""
    layers = settings.layers if settings.layers is not None else tuple(range(model.n_layers))
    found: dict[Site, None] = {}
    for name in settings.sites:
        asked = [Site(layer, name) for layer in layers]
        canonical = [site.canonical for site in asked]
        one_name = len({site.name for site in canonical}) == 1
        found.update(dict.fromkeys(canonical if one_name else asked))
    for site in found:
        model.hooks.place(site)
    return list(found)


def _expanded(
    asked: Sequence[Position | None], tokens: tuple[Sequence[Tokens], Sequence[Tokens]]
) -> list[Position]:
    """Positions, with one for each token of the template's suffix where that was asked for."""
    found: dict[Position, None] = {}
    for position in asked:
        if position is None:
            n = min(map(reading.suffix_length, tokens))
            if n == 0:
                raise InputError("the chat template puts no token after these texts")
            found.update(dict.fromkeys(Position("index", index) for index in range(-n, 0)))
        else:
            found[position] = None
    return list(found)


def _check_lengths(model: Model, tokens: tuple[Sequence[Tokens], Sequence[Tokens]]) -> None:
    """Refuse passages that are longer than the model takes; the longest is named."""
    for name, side in zip(("positive", "negative"), tokens, strict=True):
        longest = max(range(len(side)), key=lambda index: len(side[index].ids))
        length = len(side[longest].ids)
        if model.context is not None and length > model.context:
            raise InputError(
                f"{name} text {longest + 1} has {length:,} tokens, and {model.identity.id} takes"
                f" {model.context:,}",
                hint=f"shorten or leave out {_too_long(side, model.context)}",
            )


def _too_long(side: Sequence[Tokens], context: int) -> str:
    """`it`, or how many there are."""
    n = sum(len(one.ids) > context for one in side)
    return "it" if n == 1 else f"all {n:,} texts that are too long"
