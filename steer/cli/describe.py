"""`steer describe`: the concepts that are nearest to an unknown vector."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steer.cli import options, output


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("describe")(describe)


def describe(
    vector: Annotated[str, typer.Argument(help="A vector: a file, a name or an address.")],
    pack: Annotated[
        Path, typer.Option(help="A folder that steer pack build wrote, for the same model.")
    ] = Path("vectors"),
    top: Annotated[int, typer.Option(min=1, help="How many concepts to name.")] = 8,
    json: options.Json = False,
) -> None:
    """Find the concepts of a pack that are nearest to a vector.

    The mean direction of all concepts of the pack is removed first. A cosine below 0 means the
    opposite of a concept. A cosine that a random direction also reaches means nothing. No model is
    loaded.

    \b
    steer describe unknown.safetensors --pack vectors/
    """
    from steer.concepts.geometry import nearest
    from steer.concepts.index import read
    from steer.vectors import store

    unknown = store.read(options.find(vector))
    neighbours, chance = nearest(unknown, read(pack).vectors(), top)
    if json:
        output.as_json(
            {
                "vector": vector,
                "chance": chance,
                "nearest": [neighbour.to_dict() for neighbour in neighbours],
            }
        )
        return
    rows = [
        [n.name, "like" if n.cosine > 0 else "opposite", f"{n.cosine:+.2f}"] for n in neighbours
    ]
    output.table(["concept", "", "cosine"], rows, left=2)
    output.note(f"a random direction reaches {chance:.2f} with one of the concepts")
    if abs(neighbours[0].cosine) <= chance:
        output.warning(f"{vector} is no nearer to any concept than a random direction is")
