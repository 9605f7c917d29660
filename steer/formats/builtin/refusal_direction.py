"""refusal_direction's files: `direction.pt` with `direction_metadata.json`, and `mean_diffs.pt`.

A direction is read where block `layer` begins, and is taken out of every write to the residual
stream (Arditi et al. 2024, arXiv 2406.11717). `mean_diffs.pt` holds the candidates,
[position, layer, d_model].
"""

from __future__ import annotations

import numpy as np

from steer.base.errors import UsageError, VectorError
from steer.formats.bare import table
from steer.formats.imported import ImportedVector, checked_directions
from steer.formats.registry import Format
from steer.formats.source import Options, Source

_METADATA = "direction_metadata.json"


def _detect(source: Source) -> bool:
    if source.name == "direction.pt":
        return source.has(_METADATA)
    if source.name == "mean_diffs.pt":
        content = source.pickled()
        return isinstance(content, np.ndarray) and content.ndim == 3
    return False


def _read(source: Source, options: Options) -> ImportedVector:
    subject, content = str(source), source.pickled()
    if not isinstance(content, np.ndarray):
        raise VectorError(f"{subject} holds no single vector")
    if content.ndim == 3:
        chosen = table(content, subject, options)
        if len(chosen.directions) != 1:
            raise UsageError(f"{subject} has candidates, of which one is used", hint="--layer N")
        directions = chosen.directions
        where = "[position, layer, d_model]"
    else:
        directions = checked_directions([(_layer(source), np.squeeze(content))], subject)
        where = _METADATA
    layer = next(iter(directions))
    return ImportedVector(
        directions,
        # The input of block 0 is not the output of a block.
        shift=-1 if layer else 0,
        site="resid_post" if layer else "resid_pre",
        op="ablate=writes",
        convention=f"layer {layer} of {where} was read at the input of block {layer}",
        notes=(
            "refusal_direction ablates it from every write to the residual stream, and so does -v"
            " NAME; -v NAME:1,add adds it",
        ),
    )


def _layer(source: Source) -> int:
    if not source.has(_METADATA):
        raise UsageError(
            f"{source} needs {_METADATA} beside it, which has its layer",
            hint="or say --format=pt --layer N",
        )
    stated = source.json(_METADATA)
    layer = stated.get("layer") if isinstance(stated, dict) else None
    if type(layer) is not int:
        raise VectorError(f"{source.subject(_METADATA)} has no layer")
    return layer


FORMAT = Format(
    name="refusal-direction",
    title="refusal_direction",
    help="direction.pt beside direction_metadata.json, or mean_diffs.pt: an ablation",
    suffixes=(".pt",),
    read=_read,
    detect=_detect,
    options=("layers", "row"),
)
