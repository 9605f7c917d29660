"""`steer list`: list vector files, one per line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import options, output

if TYPE_CHECKING:
    from steer.concepts.index import BuiltPack
    from steer.vectors.metadata import Metadata


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("list")(run)


def run(
    folders: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders or addresses. Default: ./vectors and the folders of $STEER_VECTORS."
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """List vector files, one per line.

    Only headers are read, also of files on the hub and other remote places.

    \b
    steer list
    steer list ~/team/vectors --json
    steer list hf://team/vectors
    """
    from steer.library.files import list_vectors
    from steer.vectors import store

    warnings: list[str] = []
    with output.status("listing vectors"):
        files = list_vectors(*folders or (), warn=warnings.append)
    for text in warnings:
        output.warning(text)
    packs = [index for folder in folders or map(str, store.folders()) for index in _packs(folder)]
    if json:
        value: dict[str, Any] = {"vectors": [file.to_dict() for file in files]}
        if packs:
            value["packs"] = [pack.to_dict() for pack in packs]
        output.as_json(value)
        return
    if not files:
        output.note(f"no vectors in {' or '.join(folders or map(str, store.folders()))}")
        return
    rows = [_line(file.name, file.metadata) for file in files]
    output.table(["name", "model", "site", "made from", "description"], rows, left=5)
    for pack in packs:
        output.note(
            f"{pack.folder}: {len(pack.working_rows)} of the {len(pack.rows)} concepts of"
            f" {pack.title} work on {pack.model}; steer pack report {pack.folder}"
        )


def _packs(folder: str) -> list[BuiltPack]:
    """The index of a pack in a folder, if there is one. A damaged index causes a warning."""
    from steer.base.errors import SteerError
    from steer.base.urls import is_url
    from steer.concepts.index import INDEX, read

    if is_url(folder) or not (Path(folder) / INDEX).is_file():
        return []
    try:
        return [read(Path(folder))]
    except SteerError as error:
        output.warning(str(error))
        return []


def _line(name: str, metadata: Metadata) -> list[str]:
    from steer.vectors.sites import format_layers

    site = f"{metadata.site} {format_layers(metadata.layers)}"
    if metadata.tokens:
        site = "token" if metadata.tokens == 1 else f"token of {metadata.tokens}"
    origin = f"{metadata.method} of {metadata.contrast.n}"
    if metadata.method.source is not None:
        origin = f"{metadata.method.source.format} file"
    return [name, metadata.model.id, site, origin, metadata.description]
