"""vllm-lens: a field of a completion request, which adds vectors to the outputs of blocks.

Merge it into the body of the request. The value of the field is JSON as text.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

import numpy as np

from steer.base.errors import VectorError
from steer.base.strict_json import load_strict_json
from steer.formats.imported import ImportedVector, checked_directions, coefficient_of, shortened
from steer.formats.registry import FileContents, Format, Writer
from steer.formats.source import Options, Source

_OUTER, _FIELD = "vllm_xargs", "apply_steering_vectors"


def _field(source: Source) -> Any:
    raw = source.json()
    outer = raw.get(_OUTER) if isinstance(raw, dict) else None
    return outer.get(_FIELD) if isinstance(outer, dict) else None


def _detect(source: Source) -> bool:
    return isinstance(_field(source), str)


def _read(source: Source, options: Options) -> ImportedVector:
    subject, field = str(source), _field(source)
    vectors = load_strict_json(field, f"{subject}, {_FIELD}") if isinstance(field, str) else None
    if not isinstance(vectors, list) or len(vectors) != 1 or not isinstance(vectors[0], dict):
        raise VectorError(f"{subject} has no single vector for vllm-lens")
    vector = vectors[0]
    for key in ("norm_match", "position_indices"):
        if vector.get(key) not in (None, False):
            raise VectorError(f"{subject}: {key} = {shortened(vector[key])} cannot be carried")
    layers, stored = vector.get("layer_indices"), vector.get("activations")
    if not isinstance(layers, list) or not all(type(layer) is int for layer in layers):
        raise VectorError(f"{subject} has no list of layers")
    if not isinstance(stored, dict) or stored.get("dtype") != "float32":
        raise VectorError(f"{subject} has no float32 numbers")
    try:
        numbers = np.frombuffer(base64.b64decode(str(stored.get("data")), validate=True), "<f4")
    except (binascii.Error, ValueError):
        raise VectorError(f"{subject}: its numbers are not base64 of float32") from None
    if not layers or len(numbers) % len(layers) or not len(numbers):
        raise VectorError(f"{subject} has {len(numbers)} numbers for {len(layers)} layers")
    rows = numbers.reshape(len(layers), -1)
    if stored.get("shape") != list(rows.shape):
        raise VectorError(f"{subject} says another shape than {list(rows.shape)}")
    return ImportedVector(
        checked_directions(zip(layers, rows, strict=True), subject),
        convention="layer N is the output of block N, where vllm-lens adds it",
        coefficient=coefficient_of(vector.get("scale", 1.0), subject, "scale"),
    )


def _write(outgoing: FileContents) -> bytes:
    rows = sorted(outgoing.directions.items())
    stacked = np.stack([row for _, row in rows]).astype("<f4")
    vector = {
        "activations": {
            "data": base64.b64encode(stacked.tobytes()).decode(),
            "dtype": "float32",
            "original_dtype": "torch.float32",
            "shape": list(stacked.shape),
        },
        "layer_indices": [layer for layer, _ in rows],
        "scale": 1.0,
        "norm_match": False,
        "position_indices": None,
    }
    body = {_OUTER: {_FIELD: json.dumps([vector])}}
    return json.dumps(body).encode() + b"\n"


FORMAT = Format(
    name="vllm-lens",
    title="vllm-lens",
    help="a field for the body of a completion request",
    suffixes=(".json",),
    read=_read,
    detect=_detect,
    writer=Writer(_write, use="merge OUT into the body of a completion request"),
)
