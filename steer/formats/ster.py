"""ster's JSON (wisent-ai/ster): unit vectors by block, added at the block's output."""

from __future__ import annotations

from typing import Any

from steer.base.errors import VectorError
from steer.formats.foreign import Foreign, checked_rows, shortened


def read(raw: Any, subject: str) -> Foreign:
    """A steering artifact, of the JSON.

    Raises:
        VectorError: not of this layout, or a newer one.
    """
    if not isinstance(raw, dict) or raw.get("product") != "ster":
        raise VectorError(f"{subject} is not ster's: its JSON does not say product ster")
    if raw.get("schema_version") != 1:
        said = shortened(raw.get("schema_version"))
        raise VectorError(f"{subject} has ster's schema {said}; this reads 1")
    vectors = raw.get("vectors")
    if not isinstance(vectors, list):
        raise VectorError(f"{subject} has no list of vectors")
    rows = []
    for entry in vectors:
        layer = entry.get("layer") if isinstance(entry, dict) else None
        if type(layer) is not int:
            raise VectorError(f"{subject} has a vector without a layer")
        rows.append((layer, entry.get("values")))
    named = checked_rows(rows, subject)
    if raw.get("hidden_size") != len(next(iter(named.values()))):
        raise VectorError(f"{subject}: its vectors are not as long as its hidden_size says")
    model = raw.get("model")
    return Foreign(
        format="ster",
        rows=named,
        shift=0,
        convention="layer N was measured at the output of block N, where ster adds it",
        model=shortened(model) if isinstance(model, str) else "",
    )
