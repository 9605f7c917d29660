"""ds4's `.f32`: numbers without a header, [layers, d_model], which a JSON file beside describes.

Row N is layer N, counted from 0. ds4 takes the directions out of what a block writes, the output of
its attention or of its MLP: h - scale (h . d) d. A positive scale removes. Checked against ds4's
source and the vector that it ships.
"""

from __future__ import annotations

from pathlib import PurePath

import numpy as np

from steer.base.errors import UsageError, VectorError
from steer.formats.imported import (
    MAX_LAYERS,
    MAX_WIDTH,
    UNIT_TOLERANCE,
    ImportedVector,
    checked_directions,
    norm,
    projection,
    shortened,
    unit,
)
from steer.formats.registry import Format
from steer.formats.source import Options, Source
from steer.vectors.sites import SiteName

_FORMAT = "ds4-directional-steering-v1"
_SITES: dict[str, SiteName] = {"ffn_out": "mlp_out", "attn_out": "attn_out"}


def _read(source: Source, options: Options) -> ImportedVector:
    subject = str(source)
    sidecar = PurePath(source.name).stem + ".json"
    if not source.has(sidecar):
        raise UsageError(
            f"{subject} has no header, and there is no {sidecar} beside it",
            hint="that file has its shape and its component",
        )
    stated = source.json(sidecar)
    shape = stated.get("shape") if isinstance(stated, dict) else None
    match shape:
        case [int(n_layers), int(width)] if 0 < n_layers <= MAX_LAYERS and 0 < width <= MAX_WIDTH:
            pass
        case _:
            raise VectorError(f"{sidecar} of {subject} has no shape [layers, d_model]")
    component = stated.get("component")
    if component not in _SITES:
        raise VectorError(
            f"{sidecar} of {subject} has the component {shortened(component)!r}",
            hint=f"{' and '.join(_SITES)} are known",
        )
    written_as = stated.get("format")
    if written_as not in (None, _FORMAT):
        raise VectorError(
            f"{sidecar} of {subject} has the format {shortened(written_as)!r}; {_FORMAT} is read"
        )
    data = source.content()
    if len(data) != 4 * n_layers * width:
        raise VectorError(f"{subject} has {len(data):,} bytes, not {4 * n_layers * width:,}")
    table = np.frombuffer(data, "<f4").reshape(n_layers, width)
    rows = [(layer, row) for layer, row in enumerate(table) if np.count_nonzero(row)]
    directions = checked_directions(rows, subject)
    lengths = {layer: norm(row) for layer, row in directions.items()}
    bases = {n: np.stack([unit(row, f"{subject}, layer {n}")]) for n, row in directions.items()}
    # The engine does not normalise: a row of another length acts with its square.
    off = any(abs(length - 1) > UNIT_TOLERANCE for length in lengths.values())
    strengths = {layer: (lengths[layer] ** 2 if off else 1.0,) for layer in bases}
    out = projection(bases, strengths, 1.0)
    return ImportedVector(
        out.directions,
        convention="row N is layer N, counted from 0",
        site=_SITES[component],
        op=out.op,
        coefficient=out.coefficient,
        factors=out.factors,
        notes=(
            "its scale is not in the file: ds4's default of 1 removes the direction, and"
            " -v NAME:-1,ablate amplifies it",
        ),
    )


FORMAT = Format(
    name="ds4",
    title="ds4",
    help="float32 rows that are projected out, with a .json beside that has shape and component",
    suffixes=(".f32",),
    read=_read,
    fallback=True,
)
