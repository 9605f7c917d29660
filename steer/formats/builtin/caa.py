"""CAA's and EasyEdit's vectors: one file a layer, whose name has the layer and often the model.

CAA publishes `vec_layer_13_Llama-2-7b-chat-hf.pt`, EasyEdit writes `layer_13.pt`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from steer.base.errors import UsageError, VectorError
from steer.formats.bare import table
from steer.formats.choosing import choose
from steer.formats.imported import ImportedVector, checked_directions, shortened
from steer.formats.registry import Format
from steer.formats.source import FOLDER, Options, Source

_NAME = re.compile(r"(?:.*_)?layer_([0-9]{1,5})(?:_(.+))?\.pt")


def _detect(source: Source) -> bool:
    if source.is_folder:
        return any(map(_NAME.fullmatch, source.files())) and not source.has("registry.json")
    return bool(_NAME.fullmatch(source.name)) and isinstance(source.pickled(), np.ndarray)


def _read(source: Source, options: Options) -> ImportedVector:
    subject = str(source)
    if source.is_folder:
        names, model = _of_one_model(source.files(), options, subject)
    elif options.layers is not None:
        content = source.pickled()
        if not isinstance(content, np.ndarray):
            raise VectorError(f"{subject} holds no single vector")
        return table(content, subject, options)
    elif match := _NAME.fullmatch(source.name):
        names, model = {int(match[1]): ""}, match[2] or ""
    else:
        raise UsageError(
            f"the name {source.name} has no layer, as in vec_layer_14.pt", hint="pass --layer N"
        )
    rows = [(layer, np.squeeze(source.pickled(name))) for layer, name in sorted(names.items())]
    return ImportedVector(
        checked_directions(rows, subject),
        convention="the file name gives the layer: it was measured at the output of that block,"
        " where CAA and EasyEdit add it",
        model=shortened(model),
    )


def _of_one_model(
    names: Iterable[str], options: Options, subject: str
) -> tuple[dict[int, str], str]:
    """The files of a folder by layer, of one model, and that model."""
    by_model: dict[str, dict[int, str]] = {}
    for name in names:
        if match := _NAME.fullmatch(name):
            files = by_model.setdefault(match[2] or "", {})
            if int(match[1]) in files:
                raise VectorError(f"{subject} has several files of layer {int(match[1])}")
            files[int(match[1])] = name
    if not by_model:
        raise VectorError(
            f"the folder {subject} has no vectors, such as layer_14.pt", hint="name the file itself"
        )
    model = choose(sorted(by_model), options, subject, "models")
    return by_model[model], model


FORMAT = Format(
    name="caa",
    title="CAA, EasyEdit",
    help="vec_layer_13_MODEL.pt, layer_13.pt, or a folder of them",
    suffixes=(".pt", FOLDER),
    read=_read,
    detect=_detect,
    options=("pick", "layers"),
)
