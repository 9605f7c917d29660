"""IBM's `.svec`: JSON of two tools, activation-steering (one row a layer) and AISteer360 (several).

Both number the blocks at whose outputs they measure. activation-steering adds at the *input* of
that block, one layer earlier than it measured; AISteer360 says nothing in the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from steer.base.errors import VectorError
from steer.formats.foreign import Foreign, checked_rows, layer_number, shortened
from steer.vectors.vector import Directions

CONVENTIONS = {
    "ibm-svec": (
        0,
        "layer N was measured at the output of block N and goes there; activation-steering adds it"
        " at the input of block N, as --layer-offset -1 would",
    ),
    "aisteer360": (
        0,
        "layer N was measured at the output of block N, AISteer360's default; of one that was"
        " fitted with location layer_input it is --layer-offset -1",
    ),
}


def read(raw: Any, subject: str, format: str | None = None) -> Foreign:
    """A steering vector, of the JSON.

    Raises:
        VectorError: not of this layout, or several rows at a layer.
    """
    if not isinstance(raw, dict) or not isinstance(raw.get("directions"), dict):
        raise VectorError(f"{subject} is no .svec file: it has no `directions`")
    if raw.get("num_heads") is not None or raw.get("head_dim") is not None:
        raise VectorError(f"{subject} has vectors for attention heads, which have no site here")
    nested = False
    rows = []
    for number, values in raw["directions"].items():
        layer = layer_number(number, subject)
        if isinstance(values, list) and values and isinstance(values[0], list):
            nested = True
            if len(values) != 1:
                raise VectorError(
                    f"{subject} has {len(values)} rows at layer {layer}, not one",
                    hint="several rows are positions, the two sides of an angle, or heads",
                )
            values = values[0]
        rows.append((layer, values))
    format = format or ("aisteer360" if nested else "ibm-svec")
    shift, convention = CONVENTIONS[format]
    model = raw.get("model_type")
    return Foreign(
        format=format,
        rows=checked_rows(rows, subject),
        shift=shift,
        convention=convention,
        model=shortened(model) if isinstance(model, str) else "",
    )


def write(rows: Mapping[int, Directions], *, model: str) -> bytes:
    """One row a layer, which both tools read. The same rows give the same bytes."""
    directions = {str(layer): row.tolist() for layer, row in sorted(rows.items())}
    # activation-steering asks for the key; nothing is known to put in it.
    content = {"model_type": model, "directions": directions, "explained_variances": {}}
    return json.dumps(content).encode()
