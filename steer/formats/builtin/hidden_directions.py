"""hidden-directions' `NAME.pt`, [layers, d_model], with `manifest.json` beside it.

The manifest has the layer and the strength at which a direction was found to work.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import numpy as np

from steer.base.errors import VectorError
from steer.formats.imported import ImportedVector, checked_directions, coefficient_of, shortened
from steer.formats.registry import Format
from steer.formats.source import Options, Source

_MANIFEST = "manifest.json"


def _entry(source: Source) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The manifest's entry for this file, and the manifest."""
    if not source.has(_MANIFEST):
        return None
    manifest = source.json(_MANIFEST)
    listed = manifest.get("directions") if isinstance(manifest, dict) else None
    for entry in listed if isinstance(listed, list) else ():
        if isinstance(entry, dict) and entry.get("name") == PurePath(source.name).stem:
            return entry, manifest
    return None


def _detect(source: Source) -> bool:
    return _entry(source) is not None


def _read(source: Source, options: Options) -> ImportedVector:
    subject, listing, content = str(source), _entry(source), source.pickled()
    if listing is None:
        raise VectorError(f"{subject} is not in a {_MANIFEST} beside it")
    entry, manifest = listing
    if not isinstance(content, np.ndarray) or content.ndim != 2:
        raise VectorError(f"{subject} is not [layers, d_model]")
    if entry.get("shape") not in (None, list(content.shape)):
        raise VectorError(f"{subject} is {list(content.shape)}, and its manifest says otherwise")
    layer = entry.get("recommended_layer")
    if layer is not None and (type(layer) is not int or not 0 <= layer < len(content)):
        raise VectorError(f"{subject}: its recommended_layer is {shortened(layer)}")
    alpha = entry.get("recommended_alpha")
    model = manifest.get("model")
    return ImportedVector(
        checked_directions(enumerate(content), subject),
        convention="row N is added at the output of block N, where hidden-directions adds it",
        coefficient=1.0 if alpha is None else coefficient_of(alpha, subject, "recommended_alpha"),
        recommended=() if layer is None else (layer,),
        model=shortened(model) if isinstance(model, str) else "",
    )


FORMAT = Format(
    name="hidden-directions",
    title="hidden-directions",
    help="NAME.pt beside manifest.json, which has layer and alpha",
    suffixes=(".pt",),
    read=_read,
    detect=_detect,
)
