"""`steer compare`: how alike are vectors, and can they be combined?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import options, output
from steer.cli.tables import length

if TYPE_CHECKING:
    from steer.steering.algebra import Likeness
    from steer.vectors.vector import SteeringVector


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("compare")(compare)


def compare(
    vectors: Annotated[
        list[str] | None, typer.Argument(help="Two or more files, or names in ./vectors.")
    ] = None,
    pack: Annotated[
        Path | None, typer.Option(help="A folder that steer pack build wrote, in place of vectors.")
    ] = None,
    layer: Annotated[
        int | None, typer.Option(min=0, help="Of --pack. Default: the one recommended most.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the heat map and the tree of --pack to this page.")
    ] = None,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Compare vectors layer by layer; can they be combined?

    A cosine of 1 is the same direction, -1 its opposite, 0 nothing in common. No model is loaded.

    \b
    steer compare joyful calm
    steer compare run1.safetensors run2.safetensors run3.safetensors --json
    steer compare --pack vectors/ --html map.html
    """
    from steer.base.errors import UsageError
    from steer.steering import algebra
    from steer.vectors import store

    if pack is not None:
        if vectors:
            raise UsageError("name vectors, or --pack", hint="a folder holds its own vectors")
        from steer.cli import pack_map

        pack_map.compare(pack, layer=layer, html=html, force=force, json=json)
        return
    if layer is not None or html is not None:
        raise UsageError("--layer and --html go with --pack")
    if not vectors or len(vectors) < 2:
        raise UsageError("one vector has nothing to be compared with", hint="name another")
    read = [store.read(options.find(name)) for name in vectors]
    likenesses = algebra.likenesses(read)
    obstacles = algebra.obstacles(read)
    shared = algebra.shared_layers(read)
    if json:
        output.as_json(_as_json(vectors, read, likenesses, shared, obstacles))
        return
    output.table(
        ["vector", "model", "site", "layers", "positions", "made by"],
        [_facts(*named) for named in zip(vectors, read, strict=True)],
        left=6,
    )
    output.line()
    _layer_table(vectors, read, likenesses)
    output.line()
    if obstacles:
        output.line(f"cannot be combined: {'; '.join(obstacles)}")
        return
    from steer.vectors.sites import format_layers

    output.line(f"can be combined, at layers {format_layers(shared)}")


def _facts(reference: str, vector: SteeringVector) -> list[str]:
    from steer.vectors.sites import format_layers

    metadata = vector.metadata
    layers = format_layers(metadata.layers)
    positions, method = metadata.read.positions, str(metadata.method)
    return [reference, metadata.model.id, metadata.site, layers, positions, method]


def _layer_table(
    references: Sequence[str], vectors: Sequence[SteeringVector], likenesses: Sequence[Likeness]
) -> None:
    """A row for each layer of any vector; lengths first, then cosines."""
    columns = [f"norm {reference}" for reference in references]
    columns += [f"{references[one.first]} · {references[one.second]}" for one in likenesses]
    rows = []
    for layer in sorted({layer for vector in vectors for layer in vector.metadata.layers}):
        norms = [
            length(vector.metadata.at(layer).norm) if layer in vector.metadata.layers else "–"
            for vector in vectors
        ]
        cosines = [one.cosines.get(layer) for one in likenesses]
        told = ["–" if cosine is None else f"{cosine:.3f}" for cosine in cosines]
        rows.append([str(layer), *norms, *told])
    output.table(["layer", *columns], rows)


def _as_json(
    references: Sequence[str],
    vectors: Sequence[SteeringVector],
    likenesses: Sequence[Likeness],
    shared: tuple[int, ...],
    obstacles: list[str],
) -> dict[str, Any]:
    return {
        "vectors": [
            {
                "vector": reference,
                "name": vector.name,
                "sha256": vector.metadata.sha256,
                "model": vector.metadata.model.id,
                "fingerprint": vector.metadata.model.fingerprint,
                "site": vector.metadata.site,
                "positions": vector.metadata.read.positions,
                "method": vector.metadata.method.name,
                "norms": {str(row.layer): row.norm for row in vector.metadata.statistics},
            }
            for reference, vector in zip(references, vectors, strict=True)
        ],
        "cosines": [
            {
                "first": references[one.first],
                "second": references[one.second],
                "layers": {str(layer): cosine for layer, cosine in one.cosines.items()},
            }
            for one in likenesses
        ],
        "shared_layers": list(shared),
        "can_be_combined": not obstacles,
        "obstacles": obstacles,
    }
