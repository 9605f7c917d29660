"""`steer compare`: how alike are vectors, and can they be combined?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli import options, output
from steer.cli.tables import length

if TYPE_CHECKING:
    from steer.vectors.metadata import Metadata


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("compare")(compare)


def compare(
    vectors: Annotated[
        list[str] | None, typer.Argument(help="Two or more files, or names in ./vectors.")
    ] = None,
    pack: Annotated[
        Path | None, typer.Option(help="A folder that steer pack build wrote, in place of vectors.")
    ] = None,
    layer: Annotated[
        int | None, typer.Option(min=0, help="For --pack. Default: the most recommended one.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the heat map and the tree of --pack to this page.")
    ] = None,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Compare vectors layer by layer; can they be combined?

    A cosine of 1 is the same direction, -1 its opposite, 0 nothing in common. No model is loaded.

    \b
    steer compare joyful formal
    steer compare joyful formal sea --json
    steer compare --pack vectors/ --html map.html
    """
    from steer.base.errors import UsageError
    from steer.library import files
    from steer.vectors.sites import format_layers

    if pack is not None:
        if vectors:
            raise UsageError("name vectors, or --pack", hint="a folder holds its own vectors")
        from steer.cli import pack_map

        pack_map.compare(pack, layer=layer, html=html, force=force, json=json)
        return
    if layer is not None or html is not None:
        raise UsageError("--layer and --html go with --pack")
    compared = files.compare(*map(options.find, vectors or ()), names=vectors)
    if json:
        output.as_json(compared.to_dict())
        return
    output.table(
        ["vector", "model", "site", "layers", "positions", "made by"],
        [
            _facts(name, v.metadata)
            for name, v in zip(compared.names, compared.vectors, strict=True)
        ],
        left=6,
    )
    output.line()
    rows = compared.layer_rows()
    output.table(list(rows[0]), [[_number(*cell) for cell in row.items()] for row in rows])
    output.line()
    if compared.obstacles:
        output.line(f"cannot be combined: {'; '.join(compared.obstacles)}")
    else:
        output.line(f"can be combined, at layers {format_layers(compared.shared_layers)}")


def _facts(name: str, metadata: Metadata) -> list[str]:
    from steer.vectors.sites import format_layers

    layers = format_layers(metadata.layers)
    positions, method = metadata.read.positions, str(metadata.method)
    return [name, metadata.model.id, metadata.site, layers, positions, method]


def _number(column: str, value: float | None) -> str:
    if value is None:
        return output.NOTHING
    if column == "layer":
        return str(value)
    return length(value) if column.startswith("norm ") else f"{value:.3f}"
