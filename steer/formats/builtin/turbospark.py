"""turbospark's control vectors: llama.cpp's tensors, and keys for the op and the numbering."""

from __future__ import annotations

import numpy as np

from steer.base.errors import VectorError
from steer.formats.builtin import llama_cpp
from steer.formats.imported import ImportedVector, projection, shortened, unit
from steer.formats.registry import Format
from steer.formats.source import Options, Source

_MODE, _BASE = "turbospark.steering_mode", "turbospark.layer_base"


def _detect(source: Source) -> bool:
    values = source.gguf().values
    return _MODE in values or _BASE in values


def _read(source: Source, options: Options) -> ImportedVector:
    file, subject = source.gguf(), str(source)
    for key in file.values:
        if key.startswith("turbospark.") and key not in (_MODE, _BASE):
            raise VectorError(f"{subject} has a key {shortened(key)!r}, which is not known")
    mode, base = (file.values.get(key) for key in (_MODE, _BASE))
    if mode is not None and mode.value not in ("add", "project"):
        raise VectorError(f"{subject}: {_MODE} is {shortened(mode.value)!r}, not add or project")
    if base is not None and (type(base.value) is not int or base.value not in (0, 1)):
        raise VectorError(f"{subject}: {_BASE} is {shortened(base.value)!r}, not 0 or 1")
    rows = llama_cpp.numbered(file, subject)
    first = 1 if base is None else int(base.value)
    directions, op = dict(rows), "add"
    if mode is not None and mode.value == "project":
        bases = {n: np.stack([unit(row, f"{subject}, layer {n}")]) for n, row in rows.items()}
        out = projection(bases, dict.fromkeys(bases, (1.0,)), 1.0)
        directions, op = out.directions, out.op
    return ImportedVector(
        directions,
        convention=f"{_BASE} is {first}: direction.1 belongs to block {first}",
        shift=first - 1,
        op=op,
        model=llama_cpp.model_hint(file),
        notes=("the file has no strength: 1 is assumed",) if op == "ablate" else (),
    )


FORMAT = Format(
    name="turbospark",
    title="turbospark",
    help="a control vector whose turbospark.* keys say op and numbering",
    suffixes=(".gguf",),
    read=_read,
    detect=_detect,
)
