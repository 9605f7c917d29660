"""`steer monitor`: show the projection of each token of a text on vectors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import options, output, workers
from steer.cli.texts import given_texts, with_map
from steer.contrasts.schema import Names
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.monitoring.traces import Trace
    from steer.steering.readouts import Readout


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("monitor")(monitor)


@options.with_model(default="pocket", chat=True)
@workers.with_cluster
@with_map("texts")
def monitor(
    *,
    text: Annotated[str | None, typer.Argument(help="The text; - or nothing reads stdin.")] = None,
    vector: Annotated[
        list[str] | None,
        typer.Option(
            "-v",
            "--vector",
            help="NAME[@LAYERS]. Repeatable. Default: the layer that separates texts best, near"
            " the recommended ones.",
        ),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            help="A file of texts: one a line, or JSONL, JSON, CSV, TSV, Parquet; - for stdin."
        ),
    ] = None,
    names: Names,
    pack: Annotated[
        Path | None,
        typer.Option(help="A folder that steer pack build wrote: all of its concepts."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Concepts of --pack to show.")] = 12,
    every: Annotated[
        int | None,
        typer.Option(min=1, help="With --pack, show the profile after every so many tokens too."),
    ] = None,
    baseline: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Texts of the model's own that --pack compares with. Default: 40; read once.",
        ),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Read it as a message in the model's chat template.")
    ] = False,
    table: Annotated[
        bool, typer.Option("--table", help="Numbers, not colours; as when piped.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write a heat map to this page, which needs no network.")
    ] = None,
    allow_other_model: Annotated[
        bool,
        typer.Option("--allow-other-model", help="Read with a vector or pack of another model."),
    ] = False,
    cluster: workers.Cluster | None,
    force: options.Force = False,
    json: options.Json = False,
    source: ModelSource,
) -> None:
    """Show the projection of each token of a text on vectors.

    The unit is that of the vector file: 0 is the mean of its negative texts, 1 the mean of its
    positive texts. A text above the threshold between the two is called positive; the mean of a few
    tokens varies widely, so do not trust the side of a short text. A vector that has no sides, such
    as a combined one, is read in activation units.

    \b
    steer monitor "Mara rowed to the harbour and found a starfish." -v sea
    steer monitor --texts stories.jsonl -v sea@2 -v formal@2 --html stories.html
    steer apply "One day" -v sea | steer monitor -v sea --json
    steer monitor --texts chats.jsonl --pack vectors/ -m MODEL
    tail -f log.txt | steer monitor --texts - --pack vectors/ --json

    With --pack: how much likelier the condition of each concept makes a text, whatever the vectors.
    In a file, a record with messages is a conversation, of which each answer is read. With --texts,
    results appear as texts are read, with --json one object a line.
    """
    from steer.base.errors import UsageError
    from steer.base.files import check_writable, write_atomic

    workers.check(cluster, source)
    if pack is not None:
        from steer.cli import pack_map

        if vector or html is not None or table or cluster is not None:
            raise UsageError("--pack cannot be combined with -v, --html, --table or --ray")
        settings = pack_map.ProfileSettings(
            top, every, baseline, chat=chat or None, allow_other_model=allow_other_model, json=json
        )
        pack_map.profile(text, texts, names, pack, settings, source)
        return
    if every is not None or baseline is not None:
        raise UsageError("--every and --baseline need --pack")
    if not vector:
        raise UsageError("no vector is named", hint="name one with -v, or a --pack")
    if html is not None:
        check_writable(html, force=force)
    readouts = [readout for spec in vector for readout in _readouts(spec)]
    options.check_readers(chat=chat, watched=readouts)
    used = [readout.vector for readout in readouts]
    source = options.for_vectors(used, source, chat=chat)
    read = given_texts(text, texts, names, "text", 'steer monitor "One day" -v NAME')
    with workers.workers(cluster, source) as readers:
        from steer.monitoring.monitor import monitor as run
        from steer.monitoring.monitor import tokenize
        from steer.workers import once

        planned = once(readers, partial(tokenize, texts=read, chat=chat))
        options.check_fit(used, planned.model, allow_other_model=allow_other_model)
        with output.progress("reading", len(read)) as advance:
            traces = run(readers, planned, readouts, advance)
    output.note(f"{planned.described} · {' · '.join(map(str, readouts))}")
    if html is not None:
        from steer.monitoring.heatmap import page

        title = f"steer monitor · {planned.model.id}"
        write_atomic(html, page(title, traces, readouts).encode(), force=force)
        output.note(f"wrote {html}")
    if json:
        output.as_json(_as_json(planned.model.id, traces, readouts))
    elif html is None and output.has_colour() and not table:
        _coloured(traces, readouts)
    else:
        if html is None:
            _numbers(traces, readouts)
        _summaries(traces, readouts)


def _readouts(typed: str) -> list[Readout]:
    """The readouts that the spec of a vector names, one for each layer.

    Raises:
        UsageError: the spec has an amount, a scope or a schedule, which only steering has.
    """
    from steer.base.errors import UsageError
    from steer.steering import spec
    from steer.steering.readouts import readouts
    from steer.vectors import store

    parsed = spec.parse(typed)
    if parsed != spec.SteerSpec(parsed.reference, layers=parsed.layers):
        plain = spec.SteerSpec(parsed.reference, layers=parsed.layers)
        raise UsageError(
            f"{typed!r}: only a vector and layers can be read", hint=f"write -v {plain}"
        )
    vector = store.read(options.find(parsed.reference))
    layers = vector.metadata.layers if parsed.layers == "all" else parsed.layers
    return readouts(vector, layers)


def _coloured(traces: Sequence[Trace], readouts: Sequence[Readout]) -> None:
    from steer.monitoring.heatmap import colour, hex_code, ink, meaning, step
    from steer.monitoring.traces import reach, summarise

    styles = [
        f"{hex_code(ink(colour(number)))} on {hex_code(colour(number))}"
        for number in range(step(1, 0, 1) + 1)
    ]
    reaches = [reach(traces, column, readout) for column, readout in enumerate(readouts)]
    for number, trace in enumerate(traces, 1):
        for column, readout in enumerate(readouts):
            summary = summarise(trace, column, readout)
            output.heading((f"text {number} · " if len(traces) > 1 else "") + str(readout))
            middle, far = readout.middle, reaches[column]
            output.styled(
                (token.text, "dim" if token.special else styles[step(float(value), middle, far)])
                for token, value in zip(trace.tokens, trace.values[:, column], strict=True)
            )
            highest = trace.tokens[summary.max_at].text.strip()
            output.line(
                f"max {summary.max:.2f} {highest!r} · mean {summary.mean:.2f}"
                f" · last {summary.last:.2f}" + (f" · {summary.side} side" if summary.side else "")
            )
            output.line()
    for readout, far in zip(readouts, reaches, strict=True):
        low, _, high = meaning(readout)
        ends = (readout.middle - far, readout.middle + far)
        output.styled(
            [
                (f"{readout}  {ends[0]:.2g} ", "dim"),
                *((" ", style) for style in styles[::2]),
                (f" {ends[1]:.2g}  {low}, {high}", "dim"),
            ]
        )


def _numbers(traces: Sequence[Trace], readouts: Sequence[Readout]) -> None:
    rows = [
        [str(number), repr(token.text), *(f"{value:.3f}" for value in values)]
        for number, trace in enumerate(traces, 1)
        for token, values in zip(trace.tokens, trace.values, strict=True)
    ]
    _table(["token", *map(str, readouts)], rows, left=1, several=len(traces) > 1)
    output.line()


def _summaries(traces: Sequence[Trace], readouts: Sequence[Readout]) -> None:
    from steer.monitoring.traces import summarise

    rows = []
    for number, trace in enumerate(traces, 1):
        for column, readout in enumerate(readouts):
            summary = summarise(trace, column, readout)
            numbers = (f"{value:.2f}" for value in (summary.max, summary.mean, summary.last))
            highest = repr(trace.tokens[summary.max_at].text)
            rows.append([str(number), str(readout), highest, summary.side or "–", *numbers])
    columns = ["vector", "max at", "side", "max", "mean", "last"]
    _table(columns, rows, left=3, several=len(traces) > 1)


def _table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: int, several: bool
) -> None:
    """Print rows that begin with the number of the text; with one text, it is left out."""
    if several:
        output.table(["text", *columns], rows, left=left + 1)
    else:
        output.table(columns, [row[1:] for row in rows], left=left)


def _as_json(model: str, traces: Sequence[Trace], readouts: Sequence[Readout]) -> dict[str, Any]:
    from dataclasses import asdict

    from steer.monitoring.traces import summarise

    return {
        "model": model,
        "vectors": [
            {
                "name": readout.vector.name,
                "site": readout.vector.metadata.site,
                "layer": readout.layer,
                "unit": readout.unit,
                "threshold": readout.threshold,
            }
            for readout in readouts
        ],
        "texts": [
            {
                "text": trace.text,
                "summaries": [
                    asdict(summarise(trace, column, readout))
                    for column, readout in enumerate(readouts)
                ],
                "tokens": [
                    asdict(token) | {"values": [float(value) for value in values]}
                    for token, values in zip(trace.tokens, trace.values, strict=True)
                ],
            }
            for trace in traces
        ],
    }
