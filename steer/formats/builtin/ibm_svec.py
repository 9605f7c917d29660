"""IBM activation-steering's `.svec`: JSON of one row a layer.

It numbers the blocks at whose outputs it measures, and adds at the *input* of that block, one layer
earlier than it measured.
"""

from __future__ import annotations

import json
from typing import Any

from steer.base.errors import VectorError
from steer.formats.imported import ImportedVector, checked_directions, layer_number, shortened
from steer.formats.registry import FileContents, Format, Writer
from steer.formats.source import Options, Source


def is_nested(raw: Any) -> bool:
    """Whether each layer has a list of rows, as AISteer360 writes."""
    directions = raw.get("directions") if isinstance(raw, dict) else None
    first = next(iter(directions.values()), None) if isinstance(directions, dict) else None
    return isinstance(first, list) and bool(first) and isinstance(first[0], list)


def read(raw: Any, subject: str, convention: str) -> ImportedVector:
    """The rows of either tool's JSON.

    Raises:
        VectorError: not of this layout, or several rows at a layer.
    """
    if not isinstance(raw, dict) or not isinstance(raw.get("directions"), dict):
        raise VectorError(f"{subject} is not a .svec file: it has no `directions`")
    if raw.get("num_heads") is not None or raw.get("head_dim") is not None:
        raise VectorError(f"{subject} has vectors for attention heads, which have no site here")
    rows = []
    for number, values in raw["directions"].items():
        layer = layer_number(number, subject)
        if isinstance(values, list) and values and isinstance(values[0], list):
            if len(values) != 1:
                raise VectorError(
                    f"{subject} has {len(values)} rows at layer {layer}, not one",
                    hint="several rows are positions, the two sides of an angle, or heads",
                )
            values = values[0]
        rows.append((layer, values))
    model = raw.get("model_type")
    return ImportedVector(
        checked_directions(rows, subject),
        convention=convention,
        model=shortened(model) if isinstance(model, str) else "",
    )


def _read(source: Source, options: Options) -> ImportedVector:
    return read(
        source.json(),
        str(source),
        "layer N was measured at the output of block N and goes there; activation-steering adds it"
        " at the input of block N, as --layer-offset -1 would",
    )


def _write(outgoing: FileContents) -> bytes:
    rows = sorted(outgoing.directions.items())
    directions = {str(layer): row.tolist() for layer, row in rows}
    # activation-steering asks for the last key; nothing is known to put in it.
    content = {"model_type": outgoing.model, "directions": directions, "explained_variances": {}}
    return json.dumps(content).encode()


FORMAT = Format(
    name="ibm-svec",
    title="IBM activation-steering",
    help="JSON of one row a layer; AISteer360 reads it too",
    suffixes=(".svec",),
    read=_read,
    fallback=True,
    writer=Writer(_write),
)
