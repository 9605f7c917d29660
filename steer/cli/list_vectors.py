"""`steer list`: the vector files of a folder, a line each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli import options, output

if TYPE_CHECKING:
    from steer.concepts.index import Built
    from steer.vectors.metadata import Metadata


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("list")(list_vectors)


def list_vectors(
    folders: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders or addresses. Default: ./vectors and the folders of $STEER_VECTORS."
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """List vector files, a line each.

    It reads headers only, also of files that are elsewhere.

    \b
    steer list
    steer list ~/team/vectors --json
    steer list hf://team/vectors
    """
    from steer.vectors import store
    from steer.vectors.metadata import to_json

    searched = folders or [str(folder) for folder in store.folders() if folder.is_dir()]
    rows = [row for folder in searched for row in _rows(folder)]
    packs = [index for folder in searched for index in _packs(folder)]
    if json:
        listed = {"vectors": [{"path": path} | to_json(one) for path, _, one in rows]}
        more = {"packs": [one.to_dict() for one in packs]} if packs else {}
        output.as_json(listed | more)
        return
    if not rows:
        output.note(f"no vectors in {' or '.join(folders or map(str, store.folders()))}")
        return
    lines = [_line(name, metadata) for _, name, metadata in rows]
    output.table(["name", "model", "site", "made from", "description"], lines, left=5)
    for one in packs:
        output.note(
            f"{one.folder}: {len(one.working)} of the {len(one.rows)} concepts of {one.title} work"
            f" on {one.model}; steer pack report {one.folder}"
        )


def _rows(folder: str) -> list[tuple[str, str, Metadata]]:
    """Path or address, name and metadata of each; what is no vector is told."""
    from steer.base.errors import SteerError
    from steer.base.urls import is_url
    from steer.vectors import store

    if is_url(folder):
        return _remote_rows(folder)
    rows = []
    for path in store.files(Path(folder)):
        try:
            rows.append((str(path), path.stem, store.read_header(path).metadata))
        except SteerError as error:
            output.warning(str(error))
    return rows


def _packs(folder: str) -> list[Built]:
    """The index of a pack in a folder, if there is one; a damaged one is told."""
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


def _remote_rows(folder: str) -> list[tuple[str, str, Metadata]]:
    from steer.sharing.address import parse_folder
    from steer.sharing.opening import open_place
    from steer.sharing.places import listing

    address = parse_folder(folder)
    with output.status(f"listing {address}"):
        place = open_place(address)
        _ = place.revision  # of a repository that is not there this is an error, and no empty list
        listed = listing(place)
    rows = []
    for one in listed:
        if one.metadata is None:
            output.warning(one.error)
        else:
            rows.append((f"{address}/{one.name}", one.name, one.metadata))
    return rows


def _line(name: str, metadata: Metadata) -> list[str]:
    from steer.vectors.sites import format_layers

    where = f"{metadata.site} {format_layers(metadata.layers)}"
    if metadata.tokens:
        where = "token" if metadata.tokens == 1 else f"token of {metadata.tokens}"
    made = f"{metadata.method} of {metadata.contrast.n}"
    if metadata.method.source is not None:
        made = f"{metadata.method.source.format} file"
    return [name, metadata.model.id, where, made, metadata.description]
