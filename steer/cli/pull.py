"""`steer pull`: copy vectors from the hub, a bucket, another machine or a shared folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steer.cli import options, output


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("pull")(pull)


def pull(
    vectors: Annotated[
        list[str],
        typer.Argument(help="hf://OWNER/REPO/NAME[@REVISION], s3://BUCKET/FOLDER/NAME, or a path."),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="The folder to put it in; made if need be.")
    ] = Path("vectors"),
    public_key: Annotated[
        Path | None, typer.Option(help="PEM file; each must be signed with it, now and later.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace another vector of the same name here.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Pull vectors, check them, and record where they came from.

    The record is `steer.lock` beside them. Cards and signatures are copied too. With --public-key,
    the vector must be signed with that key, and from then on it can only be replaced by one with
    the same signer. --force replaces a different vector of the same name. If the place does not
    answer, steer uses what it fetched from there before.

    \b
    steer pull hf://team/vectors/joyful
    steer pull hf://team/vectors/joyful@v1 -o ~/vectors
    steer pull hf://team/vectors/joyful --public-key k.pub
    steer pull s3://bucket/vectors/joyful --force
    """
    from steer.sharing.address import parse_vector
    from steer.sharing.pull import pull as run

    all_pulled = []
    for address in [parse_vector(text) for text in vectors]:
        with output.status(f"pulling {address}"):
            pulled = run(address, out, public_key=public_key, force=force)
        if pulled.stale:
            output.note(f"{address}: from the cache; the place does not answer")
        if not json:
            state = "pulled" if pulled.changed else "is here already"
            by = "" if pulled.signed_by is None else f", signed by {pulled.signed_by}"
            output.line(f"{pulled.path}: {state}, from {pulled.origin}{by}")
        all_pulled.append(pulled)
    if json:
        output.as_json({"vectors": [pulled.to_dict() for pulled in all_pulled]})
