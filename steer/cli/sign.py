"""`steer sign`: sign vector files."""

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

    Writes NAME.safetensors.sig beside each file; push and pull copy it too. Others check it with
    `steer verify NAME --public-key k.pub`; give them your public key by another way than the file.
    Needs pip install 'steer-activations[sign]'.

    \b
    steer sign ./warm.safetensors --key k.pem --new-key
    steer verify ./warm.safetensors --public-key k.pub
    """
    from steer.library import files

    paths = [files.verify(options.find(name)).path for name in vectors]
    if new_key:
        public = files.new_key(key)
        output.note(f"wrote {key}, to keep secret, and {public}, to give to others")
    rows = []
    for path in paths:
        signature = files.sign(path, key)
        rows.append({"path": str(path), "signature": str(signature)})
        if not json:
            output.line(f"{path}: signed, {signature}")
    if json:
        output.as_json({"vectors": rows})
