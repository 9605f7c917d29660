"""`steer sweep`: find the layer and coefficient with the most effect within a budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli import engine as engines
from steer.cli import measuring, options, output, workers
from steer.cli.tables import trial
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.evaluation.sweep_result import SweepResult


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("sweep")(sweep)


@options.with_model(default="pocket", chat=True, fast=True)
@workers.with_cluster
@measuring.with_common
def sweep(
    *,
    context: typer.Context,
    vector: Annotated[
        list[str],
        typer.Option(
            "-v",
            "--vector",
            help="A vector, or NAME:ablate. Repeatable.",
        ),
    ],
    common: measuring.CommonOptions,
    layers: Annotated[
        str | None, typer.Option(help="Such as 3, 2,5 or 4-7. Default: all in the file.")
    ] = None,
    together: Annotated[
        bool, typer.Option("--together", help="Steer at all of these layers at once.")
    ] = False,
    coefficients: Annotated[
        str | None,
        typer.Option(help="Such as 5%,10%,20% or 0.5,1,2. Default: 2% to 60%."),
    ] = None,
    guidance: Annotated[
        list[float] | None,
        typer.Option(help="Beside it the condition live, at this strength. Repeatable."),
    ] = None,
    max_kl: Annotated[float, typer.Option(help="Budget: KL on unrelated texts, nats/token.")] = 0.1,
    max_nats: Annotated[
        float | None,
        typer.Option(help="Budget: extra nats/token of generated texts. Default 0.1, chat 0.25."),
    ] = None,
    rule: Annotated[
        str,
        typer.Option(help="How to choose: budget, refusal_direction."),
    ] = "budget",
    exhaustive: Annotated[
        bool,
        typer.Option(
            "--exhaustive",
            help="Score every cell on all texts, also hopeless ones.",
        ),
    ] = False,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Fewer layers, coefficients and texts: in minutes.",
        ),
    ] = False,
    save: Annotated[
        bool, typer.Option("--save", help="Write the choice into the vector file.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw effect and cost: a .png, .pdf or .svg.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write one HTML page with everything.")
    ] = None,
    out: measuring.Out = None,
    engine: engines.WriterOption = None,
    engine_option: engines.EngineSettings = None,
    cluster: workers.Cluster | None,
    force: options.Force = False,
    json: options.Json = False,
    source: ModelSource,
) -> None:
    """Find the layer and coefficient with the most effect in a budget.

    Each layer is tried with each coefficient. Effect: preference shift on held-out pairs, or
    recovery of a condition. Cost: KL on unrelated texts, and extra nats of generated texts. A
    choice that is no better than random directions is not recommended. If a sweep is stopped, the
    same command continues it.

    \b
    steer sweep -v ./warm.safetensors --texts held-out.jsonl --save
    steer sweep -v joyful --texts held-out.jsonl --quick
    steer sweep -v pirate.safetensors --max-kl 0.05 --report sweep.html
    steer sweep -v warm --texts pairs.jsonl -m MODEL --layers 10-20 \\
        --coefficients 5%,10%,20%
    steer sweep -v mean.safetensors -v lda.safetensors \\
        -v mean.safetensors:norm=keep --texts pairs.jsonl
    """
    from steer.base.errors import InputError
    from steer.base.files import check_apart, check_writable

    workers.check(cluster, source, ("--engine", engine))
    check_apart(out, plot, report)
    for path in (out, plot, report):
        if path is not None:
            check_writable(path, force=force)
    if plot is not None or report is not None:
        from steer.measures.pictures import check_format

        check_format(plot)
    from steer.evaluation.sweep_grid import grid_of, strongest
    from steer.evaluation.sweeps import check_budget
    from steer.evaluation.sweeps import sweep as run

    check_budget(max_kl, max_nats)
    grid = grid_of(
        vector, layers, coefficients, together=together, rule=rule, save=save, find=options.find
    )
    arguments = common.arguments([row.vector.metadata for row in grid.rows])
    used = [row.vector for row in grid.rows]
    source = options.for_vectors(used, source, chat=measuring.in_chat(arguments))
    settings = engines.check(engine, engine_option or [], strongest(grid))
    result = run(
        lambda: workers.model(context, cluster, source),
        grid,
        **arguments,
        guidance=guidance or (),
        max_kl=max_kl,
        max_nats=max_nats,
        rule=rule,
        exhaustive=exhaustive,
        quick=quick,
        engine=measuring.writer(engine, source, settings),
        command=measuring.command_line(context),
        progress=output.progress,
        note=output.note,
        warn=output.warning,
    )
    _write(result, out, plot, report, force=force)
    saved = result.save(output.warning) if save and result.recommended else None
    if saved is not None:
        output.note(f"wrote the recommendation into {saved}")
    if json:
        output.as_json(result.to_dict())
    else:
        measuring.show(result)
    result.finish()  # Deletes the kept scores, now that the result is written.
    if result.recommended is None:
        raise InputError(f"nothing to recommend: {result.reason}", hint=result.hint())
    if not json:
        choice = result.to_dict()["choice"]
        typed = choice["typed" if saved is None else "vector"]
        output.note(f"try: {trial(typed, source.name, chat=bool(arguments['chat']))}")


def _write(
    result: SweepResult,
    out: Path | None,
    plot: Path | None,
    report: Path | None,
    *,
    force: bool,
) -> None:
    from steer.base.files import write_atomic

    if out is not None:
        measuring.write_json(out, result.to_dict(), force=force)
    if plot is not None:
        write_atomic(plot, result.picture(plot.suffix[1:]), force=force)
        output.note(f"wrote {plot}")
    if report is not None:
        write_atomic(report, result.report().encode(), force=force)
        output.note(f"wrote {report}")
