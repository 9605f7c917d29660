"""`steer verify`: is a vector file whole, unaltered, whose is it, and does it fit a model?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import options, output
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.vectors.vector import SteeringVector


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
    """Check that vector files are whole, and fit a model.

    Of a pulled one also that it is the one that `steer.lock` has, and with --public-key that its
    owner has signed it.

    \b
    steer verify joyful
    steer verify vectors/*.safetensors -m pocket
    steer verify joyful --public-key k.pub
    """
    from steer.steering.steers import check_fits

    checked = [_checked(path, public_key) for path in map(options.find, vectors)]
    loaded = options.load_model(source) if source else None
    rows = []
    for vector, row in checked:
        warnings = check_fits(vector, loaded.identity) if loaded else []
        rows.append(row | {"warnings": warnings})
        for text in warnings:
            output.warning(text)
        if not json:
            told = ["whole and unaltered"]
            told += [f"from {row['origin']}"] if row["origin"] else []
            told += [f"signed by {row['signed_by']}"] if row["signed_by"] else []
            told += [f"fits {loaded.identity.id}"] if loaded else []
            output.line(f"{row['path']}: {', '.join(told)}")
    if json:
        output.as_json({"vectors": rows, "model": loaded.identity.id if loaded else None})


def _checked(path: Path, public_key: Path | None) -> tuple[SteeringVector, dict[str, Any]]:
    """A vector with what is known of where it came from.

    Raises:
        SteerError: it is damaged, not the one that was pulled, or not signed so.
    """
    from steer.base.errors import VectorError
    from steer.vectors import lock, signing, store

    vector, data = store.read_with_bytes(path)
    digest = vector.metadata.sha256
    origin = lock.origins(path.parent).get(path.stem)
    if origin is not None and origin.sha256 != digest:
        raise VectorError(
            f"{path} is whole, but not the vector that was pulled from {origin}: its sha256 is"
            f" {digest[:12]}..., not {origin.sha256[:12]}...",
            hint=f"pull it again with --force, or take its entry out of {path.parent / lock.NAME}",
        )
    signed_by = None
    if public_key is not None:
        signed_by = signing.fingerprint(signing.check(path, data, public_key))
    row = {
        "path": str(path),
        "sha256": digest,
        "origin": None if origin is None else str(origin),
        "signed_by": signed_by,
    }
    return vector, row
