"""reprobe's probes: a `.pt` a layer, or a folder with `registry.json`.

A probe was fitted on standardised activations, so its direction is its weight divided by their
standard deviation. reprobe's Steerer takes it out of the block's output.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from steer.base.errors import VectorError
from steer.formats.choosing import choose
from steer.formats.imported import ImportedVector, checked_directions, checked_row, shortened
from steer.formats.registry import Format
from steer.formats.source import FOLDER, Options, Source

_NAME = re.compile(r"(prefill|token)_layer_([0-9]{1,5})\.pt")
_KEYS = {"meta", "state_dict", "mean_act", "std_act"}


def _detect(source: Source) -> bool:
    if source.is_folder:
        return source.has("registry.json") and any(map(_NAME.fullmatch, source.files()))
    content = source.pickled()
    return isinstance(content, Mapping) and set(content) >= _KEYS


def _read(source: Source, options: Options) -> ImportedVector:
    subject = str(source)
    names = [""]
    if source.is_folder:
        matches = [match for name in source.files() if (match := _NAME.fullmatch(name))]
        if not matches:
            raise VectorError(f"the folder {subject} has no probes, such as token_layer_12.pt")
        mode = choose(sorted({match[1] for match in matches}), options, subject, "modes")
        names = [match[0] for match in matches if match[1] == mode]
    probes = [_probe(source.pickled(name), source.subject(name)) for name in names]
    modes = {mode for _, _, mode, _ in probes}
    if len(modes) > 1:
        raise VectorError(f"{subject} has probes of the prompt and of new tokens")
    return ImportedVector(
        checked_directions([(layer, row) for layer, row, _, _ in probes], subject),
        convention="`layer` is a block, whose output was read",
        op="ablate",
        model=probes[0][3],
        notes=(
            "reprobe ablates it, and so does -v NAME; -v NAME:2,add adds it",
            f"reprobe acts only on {'the prompt' if 'prefill' in modes else 'new tokens'}: write"
            f" -v NAME:recommended/{'prompt' if 'prefill' in modes else 'response'}",
        ),
    )


def _probe(content: Any, subject: str) -> tuple[int, Any, str, str]:
    """Layer, direction, mode and model."""
    if not isinstance(content, Mapping) or not set(content) >= _KEYS:
        raise VectorError(f"{subject} is not a probe of reprobe")
    meta, state = content["meta"], content["state_dict"]
    if not isinstance(meta, Mapping) or type(meta.get("layer")) is not int:
        raise VectorError(f"{subject} has no layer")
    if meta.get("training_mode") not in ("prefill", "token"):
        raise VectorError(
            f"{subject}: the mode {shortened(meta.get('training_mode'))} is not known"
        )
    weights = [
        array
        for name, array in (state.items() if isinstance(state, Mapping) else ())
        if str(name).endswith("weight")
    ]
    if len(weights) != 1 or not isinstance(weights[0], np.ndarray):
        raise VectorError(f"{subject} has no single weight")
    weight = checked_row(np.squeeze(weights[0]), subject).astype(np.float64)
    if content["std_act"] is not None:
        deviation = checked_row(np.squeeze(np.asarray(content["std_act"])), subject)
        if len(deviation) != len(weight) or not deviation.all():
            raise VectorError(f"{subject}: std_act does not fit its weight")
        weight = weight / deviation
    length = float(np.linalg.norm(weight))
    if not length:
        raise VectorError(f"{subject} is zero: it has no direction")
    model = meta.get("model_id")
    stated = shortened(model) if isinstance(model, str) else ""
    return meta["layer"], weight / length, str(meta["training_mode"]), stated


FORMAT = Format(
    name="reprobe",
    title="reprobe",
    help="token_layer_12.pt, or a folder with registry.json: an ablation",
    suffixes=(".pt", FOLDER),
    read=_read,
    detect=_detect,
    options=("pick",),
)
