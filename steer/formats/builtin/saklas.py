"""saklas's fitted manifolds of one axis: `MODEL.safetensors` with `MODEL.json` beside it.

A flat manifold of rank 1 is one direction per layer, `layer_L.basis`, which saklas weights by the
layer's `mahalanobis_share_per_layer` in the JSON.
"""

from __future__ import annotations

import re
from pathlib import PurePath

import numpy as np

from steer.base.errors import VectorError
from steer.formats.choosing import choose
from steer.formats.imported import (
    Imported,
    checked_directions,
    checked_row,
    coefficient_of,
    shortened,
)
from steer.formats.registry import Format
from steer.formats.source import FOLDER, Options, Source

_NAME = re.compile(r"layer_([0-9]{1,5})\.([a-z_]+)")
_SHARES = "mahalanobis_share_per_layer"
#: Tensors of curved manifolds, which a single direction cannot represent.
_CURVED = ("node_params", "rbf_weights", "poly_coeffs", "affine_map")


def _fitted(source: Source) -> list[str]:
    """The safetensors files that have a JSON file beside them."""
    files = set(source.files())
    return sorted(
        name
        for name in files
        if name.endswith(".safetensors") and PurePath(name).with_suffix(".json").name in files
    )


def _detect(source: Source) -> bool:
    if source.is_folder:
        return source.has("manifold.json") and bool(_fitted(source))
    return any(
        (match := _NAME.fullmatch(name)) is not None and match[2] == "basis"
        for name in source.tensors().arrays
    )


def _read(source: Source, options: Options) -> Imported:
    subject = str(source)
    name = ""
    if source.is_folder:
        stems = [PurePath(each).stem for each in _fitted(source)]
        if not stems:
            raise VectorError(f"the folder {subject} has no fitted manifold")
        stem = choose(stems, options, subject, "models")
        name = f"{stem}.safetensors"
    else:
        stem = PurePath(source.name).stem
    sidecar = f"{stem}.json"
    if not source.has(sidecar):
        raise VectorError(f"{subject} needs {sidecar} beside it, which has the layers' shares")
    stated = source.json(sidecar)
    shares = stated.get(_SHARES) if isinstance(stated, dict) else None
    if not isinstance(shares, dict):
        raise VectorError(f"{sidecar} has no {_SHARES}, without which layers have no weight")
    rows = []
    for key, array in source.tensors(name).arrays.items():
        match = _NAME.fullmatch(key)
        if match is None:
            continue
        if match[2] in _CURVED:
            raise VectorError(
                f"{subject} is a curved manifold ({shortened(key)}), not a direction",
                hint="steer reads manifolds of one axis between two poles",
            )
        if match[2] == "basis":
            basis = np.squeeze(array)
            if basis.ndim != 1:
                raise VectorError(f"{subject}: {shortened(key)} is no single direction")
            share = coefficient_of(shares.get(match[1]), subject, f"share of layer {match[1]}")
            row = checked_row(basis, f"{subject}, {shortened(key)}")
            rows.append((int(match[1]), row.astype(np.float64) * share))
    return Imported(
        checked_directions(rows, subject),
        convention="layer L is the output of block L; directions are scaled by their layer's share",
        model=shortened(stem.replace("__", "/")),
        notes=("saklas scales by the activations: find a coefficient with steer sweep",),
    )


FORMAT = Format(
    name="saklas",
    title="saklas",
    help="a manifold's MODEL.safetensors and MODEL.json, or their folder; one axis only",
    suffixes=(".safetensors", FOLDER),
    read=_read,
    detect=_detect,
    options=("pick",),
)
