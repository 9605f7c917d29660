"""Control vectors of jukofyork/control-vectors: one number above the block measured."""

from __future__ import annotations

from steer.formats.builtin import llama_cpp
from steer.formats.imported import ImportedVector
from steer.formats.registry import Format
from steer.formats.source import Options, Source


def _read(source: Source, options: Options) -> ImportedVector:
    file, subject = source.gguf(), str(source)
    return ImportedVector(
        llama_cpp.numbered(file, subject),
        shift=-1,
        convention="direction.N was measured at block N-1 and goes there; llama.cpp adds it at"
        " block N, as --format=llama.cpp would",
        model=llama_cpp.model_hint(file),
        notes=(
            *llama_cpp.check_meaning(file, subject, options),
            "jukofyork's vectors go with their __debias file: apply both",
        ),
    )


FORMAT = Format(
    name="jukofyork",
    title="jukofyork/control-vectors",
    help="as llama.cpp's, placed where it was measured, one block earlier; only by name",
    suffixes=(".gguf",),
    read=_read,
)
