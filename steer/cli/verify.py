"""`steer verify`: check that vector files are intact, signed, and fit a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steer.cli import options, output
from steer.models.source import ModelSource


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("verify")(verify)


@options.with_model(default=None)
def verify(
    *,
    vectors: Annotated[list[str], typer.Argument(help="Files, names in ./vectors, or addresses.")],
    public_key: Annotated[
        Path | None, typer.Option(help="Whose signature each must have, as PEM.")
    ] = None,
    json: options.Json = False,
    source: ModelSource | None,
) -> None:
    """Check that vector files are intact and fit a model.

    A pulled file must also be the one that `steer.lock` records. With --public-key, the file must
    be signed with that key.

    \b
    steer verify joyful
    steer verify joyful formal sea -m pocket
    steer verify ./warm.safetensors --public-key k.pub
    """
    from steer.base.urls import is_url
    from steer.library import files

    paths = {name: options.find(name) for name in vectors}
    checked = [
        files.verify(name if is_url(name) else paths[name], public_key=public_key)
        for name in vectors
    ]
    model = None
    if source is not None:
        from steer.library.models import Model

        model = Model(options.load_identity(source))
    rows = []
    for file in checked:
        warnings = [] if model is None else file.fits(model)
        rows.append(file.to_dict() | {"warnings": warnings})
        for text in warnings:
            output.warning(text)
        if not json:
            facts = ["whole and unaltered"]
            facts += [f"from {file.origin}"] if file.origin else []
            facts += [f"signed by {file.signed_by}"] if file.signed_by else []
            facts += [f"fits {model.id}"] if model else []
            output.line(f"{file.path}: {', '.join(facts)}")
    if json:
        output.as_json({"vectors": rows, "model": model.id if model else None})
