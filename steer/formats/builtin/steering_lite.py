"""steering-lite's safetensors: one tensor `layerN.v` a layer, and settings as JSON beside them."""

from __future__ import annotations

import re

from steer.base.errors import VectorError
from steer.base.strict_json import load_strict_json
from steer.formats.imported import (
    ImportedVector,
    checked_directions,
    coefficient_of,
    layer_number,
    shortened,
)
from steer.formats.registry import Format
from steer.formats.source import Options, Source

_NAME = re.compile(r"layer([0-9]{1,5})\.(.+)")
#: Methods whose vector is added; the use of others is not known.
_ADDED = ("mean_diff", "pca", "random")


def _detect(source: Source) -> bool:
    return "cfg" in source.tensors().texts


def _read(source: Source, options: Options) -> ImportedVector:
    file, subject = source.tensors(), str(source)
    settings = load_strict_json(file.texts.get("cfg", "null"), f"{subject}, cfg")
    if not isinstance(settings, dict):
        raise VectorError(f"{subject} has no settings of steering-lite")
    method = str(settings.get("method"))
    rows = []
    for name, array in file.arrays.items():
        match = _NAME.fullmatch(name)
        if match is None or match[2] != "v":
            raise VectorError(
                f"{subject}: steering-lite's {shortened(method)} keeps {shortened(name)!r}, which"
                " is more than one vector a layer",
                hint="methods that keep one vector, such as mean_diff, can be read",
            )
        rows.append((layer_number(match[1], subject), array))
    if method not in _ADDED:
        raise VectorError(
            f"{subject}: steering-lite's method {shortened(method)} is not known",
            hint=f"{', '.join(_ADDED)} are known; --pick NAME --layer N reads only the numbers",
        )
    return ImportedVector(
        checked_directions(rows, subject),
        convention="layer N was measured at the output of block N, where steering-lite adds it",
        coefficient=coefficient_of(settings.get("coeff", 1.0), subject, "coeff"),
    )


FORMAT = Format(
    name="steering-lite",
    title="steering-lite",
    help="layerN.v, with method and coefficient as settings",
    suffixes=(".safetensors",),
    read=_read,
    detect=_detect,
)
