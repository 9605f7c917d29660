"""`steer list`: the vector files of a folder, a line each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steer.cli import options, output


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("list")(list_vectors)


def list_vectors(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Default: ./vectors and the folders of $STEER_VECTORS."),
    ] = None,
    json: options.Json = False,
) -> None:
    """List vector files, a line each. Reads headers only.

    \b
    steer list
    steer list ~/team/vectors --json
    """
    from steer.errors import VectorError
    from steer.sites import format_layers
    from steer.vectors import store
    from steer.vectors.metadata import to_json

    searched = folders or [folder for folder in store.folders() if folder.is_dir()]
    headers = []
    for path in [path for folder in searched for path in store.files(folder)]:
        try:
            headers.append(store.read_header(path))
        except VectorError as error:
            output.warning(str(error))
    if json:
        rows = [{"path": str(header.path)} | to_json(header.metadata) for header in headers]
        output.as_json({"vectors": rows})
        return
    if not headers:
        output.note(f"no vectors in {' or '.join(str(f) for f in folders or store.folders())}")
        return
    lines = []
    for header in headers:
        metadata = header.metadata
        where = f"{metadata.site} {format_layers(metadata.layers)}"
        made = f"{metadata.method.name} of {metadata.contrast.n}"
        if metadata.method.source is not None:
            made = f"{metadata.method.source.format} file"
        lines.append([header.path.stem, metadata.model.id, where, made, metadata.description])
    output.table(["name", "model", "site", "made from", "description"], lines, left=5)
