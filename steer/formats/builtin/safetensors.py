"""safetensors whose tool is not known: one tensor, or tensors by layer, hook or module name."""

from __future__ import annotations

from steer.formats import bare
from steer.formats.imported import ImportedVector
from steer.formats.registry import Format
from steer.formats.source import Options, Source


def _read(source: Source, options: Options) -> ImportedVector:
    return bare.tree(dict(source.tensors().arrays), str(source), options)


FORMAT = Format(
    name="safetensors",
    title="safetensors",
    help="one tensor, or tensors by layer, hook or module name",
    suffixes=(".safetensors",),
    read=_read,
    fallback=True,
    options=("layers", "row", "pick"),
)
