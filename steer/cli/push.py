"""`steer push`: copy vectors to the hub, a bucket, another machine or a shared folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steer.cli import options, output


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("push")(push)


def push(
    vectors: Annotated[list[str], typer.Argument(help="Files, or names in ./vectors.")],
    to: Annotated[
        str,
        typer.Argument(help="hf://OWNER/REPO, s3://BUCKET/FOLDER, ssh://HOST/FOLDER, or a folder."),
    ],
    evidence: Annotated[
        list[Path] | None,
        typer.Option(help="What `steer eval -o` measured, for the card. May be repeated."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make new hub repositories private.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace another vector of the same name there.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Push vectors, each with a card, and update the index.

    The index is the README.md of the place. A card says what the vector does, how it was made, what
    was measured (or that nothing was), and how to use it. For the hub, log in first with `hf auth
    login`. s3://, gs://, ssh:// and others need an extra, such as
    pip install 'steer-activations[s3]'.

    \b
    steer push joyful hf://team/vectors
    steer push joyful sea s3://bucket/vectors --evidence eval.json
    steer push vectors/*.safetensors /mnt/team/vectors
    """
    from steer.library import files
    from steer.sharing.address import parse_folder

    address = parse_folder(to)
    with output.status(f"pushing to {address}"):
        pushed = files.push(vectors, to, evidence=evidence or (), private=private, force=force)
    for name in () if json else pushed.vectors:
        state = "pushed" if name in pushed.changed else "was there already"
        revision = f" at {pushed.revision}" if pushed.revision else ""
        output.line(f"{name}: {state}, {address}{revision}")
    if pushed.own_readme:
        output.note(f"{address} has a README.md that steer did not write; it was not changed")
    if json:
        output.as_json({"place": str(address)} | pushed.to_dict())
