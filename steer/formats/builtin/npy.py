"""numpy's `.npy`: one vector, or a table of them."""

from __future__ import annotations

from steer.formats import bare
from steer.formats.imported import ImportedVector
from steer.formats.registry import Format
from steer.formats.source import Options, Source


def _read(source: Source, options: Options) -> ImportedVector:
    return bare.table(source.npy(), str(source), options)


FORMAT = Format(
    name="npy",
    title="numpy.save",
    help="one vector or a row for each; choose with --layer and --row",
    suffixes=(".npy",),
    read=_read,
    fallback=True,
    options=("layers", "row"),
)
