"""`steer verify`: is a vector file whole, unaltered, and does it fit a model?"""

from __future__ import annotations

from typing import Annotated

import typer

from steer.cli import options, output
from steer.contrasts.source import ModelSource


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("verify")(verify)


@options.with_model(default=None)
def verify(
    vectors: Annotated[list[str], typer.Argument(help="Files, or names in ./vectors.")],
    source: ModelSource | None,
    json: options.Json = False,
) -> None:
    """Check vector files: hash, shapes, finite numbers, and the fit with a model.

    \b
    steer verify joyful
    steer verify vectors/*.safetensors -m pocket
    """
    from steer.steering.steers import check_fits
    from steer.vectors import store

    checked = [(path, store.read(path)) for path in map(store.find, vectors)]
    loaded = options.load_model(source) if source else None
    rows = []
    for path, vector in checked:
        warnings = check_fits(vector, loaded.identity) if loaded else []
        rows.append({"path": str(path), "sha256": vector.metadata.sha256, "warnings": warnings})
        for text in warnings:
            output.warning(text)
        if not json:
            fits = f", fits {loaded.identity.id}" if loaded else ""
            output.line(f"{path}: whole and unaltered{fits}")
    if json:
        output.as_json({"vectors": rows, "model": loaded.identity.id if loaded else None})
