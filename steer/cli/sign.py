"""`steer sign`: say who made a vector file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steer.cli import options, output


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("sign")(sign)


def sign(
    vectors: Annotated[list[str], typer.Argument(help="Files, or names in ./vectors.")],
    key: Annotated[Path, typer.Option(help="Your private key, an Ed25519 key as PEM.")],
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Make the key first, and KEY.pub to give to others.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Sign vector files.

    Writes NAME.safetensors.sig beside each, which push and pull take along. Who has your public
    key, from yourself and not from where the file is, checks it with `steer verify NAME
    --public-key k.pub`. Needs pip install 'steer-activations[sign]'.

    \b
    steer sign ./warm.safetensors --key k.pem --new-key
    steer verify ./warm.safetensors --public-key k.pub
    """
    from steer.library import files

    paths = [files.verify(options.find(name)).path for name in vectors]
    if new_key:
        public = files.new_key(key)
        output.note(f"wrote {key}, which is yours alone, and {public}, which is for others")
    rows = []
    for path in paths:
        signature = files.sign(path, key)
        rows.append({"path": str(path), "signature": str(signature)})
        if not json:
            output.line(f"{path}: signed, {signature}")
    if json:
        output.as_json({"vectors": rows})
