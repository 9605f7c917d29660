"""`steer pull`: a vector from the hub, a bucket, another machine or a shared folder."""

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
        Path | None, typer.Option(help="Whose signature each must have, as PEM; kept for later.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace another vector of the same name here.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Pull vectors, check them, and note where they came from.

    The note is in `steer.lock` beside them. A card and a signature come along. A signed vector is
    replaced only by one of the same signer, whom --public-key makes known, here and wherever it is
    used. A vector of the same name that is another one is kept, unless --force. Where the place
    does not answer, what was fetched from it earlier is used.

    \b
    steer pull hf://team/vectors/joyful
    steer pull hf://team/vectors/joyful@v1 -o ~/vectors
    steer pull hf://team/vectors/joyful --public-key k.pub
    steer pull s3://bucket/vectors/joyful --force
    """
    from steer.sharing.address import parse_vector
    from steer.sharing.pull import pull as run
    from steer.vectors.signing import fingerprint

    rows = []
    for address in [parse_vector(text) for text in vectors]:
        with output.status(f"pulling {address}"):
            done = run(address, out, public_key=public_key, force=force)
        if done.stale:
            output.note(f"{address}: from the cache; the place does not answer")
        signer = done.origin.signer
        signed_by = None if signer is None else fingerprint(signer)
        if not json:
            what = "pulled" if done.changed else "is here already"
            by = "" if signed_by is None else f", signed by {signed_by}"
            output.line(f"{done.path}: {what}, from {done.origin}{by}")
        rows.append(
            {
                "path": str(done.path),
                "url": done.origin.url,
                "revision": done.origin.revision,
                "sha256": done.origin.sha256,
                "changed": done.changed,
                "signed": done.signature is not None,
                "signed_by": signed_by,
            }
        )
    if json:
        output.as_json({"vectors": rows})
