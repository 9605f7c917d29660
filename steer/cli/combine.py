"""`steer combine`: vectors to one vector file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steer.cli import options, output
from steer.cli.recipe import RecipeOption


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("combine")(combine)


def combine(
    out: Annotated[Path, typer.Option("-o", "--out", help="The file to write.")],
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            help="NAME[:COEFFICIENT][@LAYERS], such as joyful, calm:-0.5, formal:15%@2-4."
            " Without a coefficient: 1."
        ),
    ] = None,
    recipe: RecipeOption = None,
    op: Annotated[
        str, typer.Option(help="sum, mean, or span, to ablate all of the parts.")
    ] = "sum",
    orthogonal_to: Annotated[
        list[str] | None,
        typer.Option(
            "--orthogonal-to",
            "--without",
            help="Take this vector's direction out. Repeatable, or with commas.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Default: the file's name.")] = None,
    description: Annotated[str, typer.Option(help="What it does.")] = "",
    license: Annotated[str, typer.Option(help="Default: the parts', if it is one.")] = "",
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Make one vector of several: sum, mean, difference, multiple.

    --orthogonal-to removes the directions of other vectors. The result has the layers that all
    parts share, records its parts, and has the effect of all parts together. No model is loaded.

    With --recipe, each part keeps its own layers, and parts may be low-rank edits.

    \b
    steer combine joyful formal:-0.5 -o vectors/playful.safetensors
    steer combine joyful formal sea --op mean -o vectors/mixed.safetensors
    steer combine formal:-1 -o vectors/casual.safetensors
    steer combine joyful formal --op span -o vectors/plain.safetensors
    steer combine joyful --without formal,sea -o vectors/joy-alone.safetensors
    steer combine --recipe captain.toml -o captain.safetensors
    """
    from steer.base.errors import UsageError
    from steer.base.files import check_writable
    from steer.library import files
    from steer.vectors import store

    removed = [name for text in orthogonal_to or () for name in text.split(",") if name.strip()]
    if bool(parts) == (recipe is not None):
        raise UsageError("name vectors to combine, or a --recipe, but not both")
    store.check_path(out)
    check_writable(out, force=force)
    combined = files.combine(
        files.read_recipe(recipe) if recipe is not None else parts or (),
        op=op,
        orthogonal_to=[options.find(name.strip()) for name in removed],
        name=name or out.stem,
        description=description,
        license=license,
        find=options.find,
    )
    metadata = combined.save(out, force=force).metadata
    if json:
        from steer.vectors.metadata import to_json

        output.as_json({"path": str(out), **to_json(metadata)})
        return
    from steer.cli.tables import layer_table, written

    layer_table(metadata)
    written(out, metadata)
