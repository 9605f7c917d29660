"""AxBench's `DiffMean_weight.pt`: a table of one direction for each concept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from steer.base.errors import VectorError
from steer.formats.bare import table
from steer.formats.imported import ImportedVector
from steer.formats.registry import Format
from steer.formats.source import Options, Source


def _detect(source: Source) -> bool:
    if not source.name.endswith("weight.pt"):
        return False
    content = source.pickled()
    return isinstance(content, np.ndarray) and content.ndim == 2


def _read(source: Source, options: Options) -> ImportedVector:
    content = source.pickled()
    if not isinstance(content, np.ndarray):
        raise VectorError(f"{source} is not a table of concepts")
    read = table(content, str(source), options)
    note = "AxBench multiplies a row by a factor and by the concept's largest activation"
    return replace(read, notes=(note,))


FORMAT = Format(
    name="axbench",
    title="AxBench",
    help="DiffMean_weight.pt: one concept a row; choose with --row and --layer",
    suffixes=(".pt",),
    read=_read,
    detect=_detect,
    options=("layers", "row"),
)
