"""`steer drive`: steer a running engine that has steering of its own."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import options, output
from steer.cli.command import SteerCommand
from steer.cli.recipe import RecipeOption, settings

if TYPE_CHECKING:
    from steer.library.servers import EngineSteering


class DriveCommand(SteerCommand):
    """Lists the engines below the options; they are loaded only then."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """The engines, by the names that --engine takes."""
        from steer.engines.driving import drivers

        with formatter.section("Engines"):
            formatter.write_dl([(driver.name, driver.help) for driver in drivers()])


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("drive", cls=DriveCommand)(drive)


def drive(
    *,
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="Of the running engine.")],
    vector: Annotated[
        list[str] | None,
        typer.Option("-v", "--vector", help="The steering, as for steer apply. Repeatable."),
    ] = None,
    recipe: RecipeOption = None,
    clear: Annotated[bool, typer.Option("--clear", help="End its steering.")] = False,
    engine: Annotated[
        str | None, typer.Option(help="One of those below. Default: recognised.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="Write the file that the engine reads, or the fields of requests."
        ),
    ] = None,
    force: options.Force = False,
    api_key: Annotated[
        str | None, typer.Option(envvar="STEER_API_KEY", help="A key that the engine asks for.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Steer a running engine with the steering that it has of its own.

    The vectors take the place of the steering that it had. Engines that hold none get it with each
    request: the fields for its body are printed. What an engine does not take is refused, by name;
    without vectors, the command says which engine it is and what that takes. Engines may ignore
    what they do not know, so steer check-server then tests whether it acts.

    \b
    steer drive http://localhost:8080
    steer drive http://localhost:8080 -v joyful:2@2
    steer check-server http://localhost:8080 -m MODEL -v joyful:2@2
    steer drive http://localhost:8080 --clear
    """
    from steer.library.servers import drive as run
    from steer.steering.named import resolved

    named, _ = settings(context, recipe, {}, vector or [])
    result = run(
        url,
        resolved(named, options.find) if named else None,
        engine=engine,
        clear=clear,
        out=out,
        force=force,
        api_key=api_key,
    )
    if json:
        output.as_json(result.to_dict())
    else:
        _show(result, out)
    if result.steers:
        vectors = " ".join(f"-v {quote(text)}" for text in vector or [])
        vectors += f" --recipe {quote(str(recipe))}" if recipe else ""
        fields = f" --fields {quote(str(out or 'FIELDS.json'))}" if result.fields else ""
        output.note(
            f"test whether it acts: steer check-server {quote(url)} -m MODEL"
            f" {vectors.strip()}{fields}"
        )


def _show(result: EngineSteering, out: Path | None) -> None:
    """What was done, for people; the fields of requests are the result on stdout."""
    where = f"{result.engine} at {result.url}"
    if result.steers is None:
        output.line(f"{where} takes {result.takes}.")
        output.line(f"It does not take {', '.join(result.refuses)}.")
        return
    for note in result.notes:
        output.note(note)
    if not result.fields:
        steers = " + ".join(result.steers)
        output.line(f"{where} {f'now steers all requests: {steers}' if steers else 'is unsteered'}")
        return
    output.note("requests with these fields in their body are steered:")
    if out is None:
        output.as_json(result.fields)
    else:
        output.line(str(out))
