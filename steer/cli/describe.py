"""`steer describe`: an unknown vector, named by the concepts that it is nearest to."""

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
    """Name a vector by the concepts of a pack that it is nearest to.

    What all concepts of the pack have in common is taken out first. A cosine below 0 means the
    opposite of a concept; one that a random direction reaches too says nothing. No model is
    loaded.

    \b
    steer describe unknown.safetensors --pack vectors/
    """
    from steer.concepts.geometry import nearest
    from steer.concepts.index import read
    from steer.vectors import store

    unknown = store.read(options.find(vector))
    near, chance = nearest(unknown, read(pack).vectors(), top)
    if json:
        output.as_json(
            {
                "vector": vector,
                "chance": chance,
                "nearest": [one.to_dict() for one in near],
            }
        )
        return
    rows = [
        [one.name, "like" if one.cosine > 0 else "opposite", f"{one.cosine:+.2f}"] for one in near
    ]
    output.table(["concept", "", "cosine"], rows, left=2)
    output.note(f"a random direction reaches {chance:.2f} with one of the concepts")
    if abs(near[0].cosine) <= chance:
        output.warning(f"{vector} is no nearer to any concept than a random direction is")
