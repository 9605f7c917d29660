"""ster's JSON (wisent-ai/ster): unit vectors by block, added at the block's output."""

from __future__ import annotations

from steer.base.errors import VectorError
from steer.formats.imported import ImportedVector, checked_directions, shortened
from steer.formats.registry import Format
from steer.formats.source import Options, Source


def _detect(source: Source) -> bool:
    raw = source.json()
    return isinstance(raw, dict) and raw.get("product") == "ster"


def _read(source: Source, options: Options) -> ImportedVector:
    raw, subject = source.json(), str(source)
    if not isinstance(raw, dict) or raw.get("product") != "ster":
        raise VectorError(f"{subject} is not ster's: its JSON does not say product ster")
    if raw.get("schema_version") != 1:
        stated = shortened(raw.get("schema_version"))
        raise VectorError(f"{subject} has ster's schema {stated}; this reads 1")
    vectors = raw.get("vectors")
    if not isinstance(vectors, list):
        raise VectorError(f"{subject} has no list of vectors")
    rows = []
    for entry in vectors:
        layer = entry.get("layer") if isinstance(entry, dict) else None
        if type(layer) is not int:
            raise VectorError(f"{subject} has a vector without a layer")
        rows.append((layer, entry.get("values")))
    directions = checked_directions(rows, subject)
    if raw.get("hidden_size") != len(next(iter(directions.values()))):
        raise VectorError(f"{subject}: its vectors are not as long as its hidden_size says")
    model = raw.get("model")
    return ImportedVector(
        directions,
        convention="layer N was measured at the output of block N, where ster adds it",
        model=shortened(model) if isinstance(model, str) else "",
    )


FORMAT = Format(
    name="ster",
    title="ster",
    help="JSON with product ster: vectors by layer",
    suffixes=(".json",),
    read=_read,
    detect=_detect,
)
