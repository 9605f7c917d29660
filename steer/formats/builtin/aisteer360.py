"""AISteer360's `.svec`: JSON with a list of rows per layer, which does not record the site."""

from __future__ import annotations

from steer.formats.builtin import ibm_svec
from steer.formats.imported import ImportedVector
from steer.formats.registry import Format
from steer.formats.source import Options, Source


def _detect(source: Source) -> bool:
    return ibm_svec.is_nested(source.json())


def _read(source: Source, options: Options) -> ImportedVector:
    return ibm_svec.read(
        source.json(),
        str(source),
        "layer N was measured at the output of block N, AISteer360's default; if it was fitted with"
        " location layer_input, pass --layer-offset -1",
    )


FORMAT = Format(
    name="aisteer360",
    title="AISteer360",
    help="JSON of a list with one row a layer",
    suffixes=(".svec",),
    read=_read,
    detect=_detect,
)
