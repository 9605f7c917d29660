"""Files of torch whose tool is not known: a tensor, tensors by layer, or one with its layer."""

from __future__ import annotations

from steer.formats import bare
from steer.formats.imported import ImportedVector
from steer.formats.registry import Format
from steer.formats.source import Options, Source


def _read(source: Source, options: Options) -> ImportedVector:
    return bare.tree(source.pickled(), str(source), options)


FORMAT = Format(
    name="pt",
    title="torch.save",
    help="a tensor, tensors by layer, hook or module name, or one with its layer",
    suffixes=(".pt", ".pth", ".bin"),
    read=_read,
    fallback=True,
    options=("layers", "row", "pick"),
)
