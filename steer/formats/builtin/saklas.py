"""saklas's fitted manifolds of one axis: `MODEL.safetensors` with `MODEL.json` beside it.

A flat manifold of rank 1 has one unit vector per layer, `layer_L.basis`, and the positions of its
poles on it, `layer_L.node_coords` [poles, 1]. saklas steers toward a pole by adding

    coefficient * 16 * position_L * basis_L / (mean over layers of |position_L * basis_L|)

at the output of block L, where |v| is v's length in the covariance of activations (Mahalanobis).
The JSON has the length of each layer's spread of poles, `mahalanobis_share_per_layer`. Checked
against saklas 5.3.0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steer.base.errors import VectorError
from steer.formats.choosing import choose
from steer.formats.imported import (
    ImportedVector,
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
#: saklas's gain, and the coefficient that it assumes where none is written.
_GAIN, _DEFAULT_COEFFICIENT = 16.0, 0.5


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


def _read(source: Source, options: Options) -> ImportedVector:
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
    parts = _layers(source.tensors(name).arrays, subject)
    rows, lengths = [], []
    for layer, tensors in parts.items():
        share = coefficient_of(shares.get(str(layer)), subject, f"share of layer {layer}")
        if share <= 0:
            raise VectorError(f"{subject}: the share of layer {layer} is {share:g}")
        here = f"{subject}, layer {layer}"
        basis = checked_row(np.squeeze(tensors["basis"]), here).astype(np.float64)
        if "node_coords" not in tensors:
            raise VectorError(
                f"{here} has no node_coords: on which side its pole is, and how far, is unknown",
                hint="fit it again with saklas 5",
            )
        position, length = _pole(tensors["node_coords"], share, here)
        rows.append((layer, position * basis))
        lengths.append(length)
    coefficient = _GAIN * _DEFAULT_COEFFICIENT / float(np.mean(lengths)) if lengths else 1.0
    labels = stated.get("node_labels")
    pole = labels[0] if isinstance(labels, list) and labels else "its first pole"
    return ImportedVector(
        checked_directions(rows, subject),
        convention="layer L is the output of block L; directions lead to the first pole",
        coefficient=coefficient_of(coefficient, subject, "strength"),
        model=shortened(stem.replace("__", "/")),
        notes=(
            f"it leads toward {shortened(pole)!r}, as strongly as saklas's default of"
            f" {_DEFAULT_COEFFICIENT:g}; saklas also bounds the length of steered activations",
        ),
    )


def _layers(arrays: Mapping[str, NDArray[Any]], subject: str) -> dict[int, dict[str, NDArray[Any]]]:
    """The tensors of each layer that has a basis.

    Raises:
        VectorError: a layer is curved, or its subspace has several axes.
    """
    layers: dict[int, dict[str, NDArray[Any]]] = {}
    for key, array in arrays.items():
        match = _NAME.fullmatch(key)
        if match is None:
            continue
        if match[2] in _CURVED:
            raise VectorError(
                f"{subject} is a curved manifold ({shortened(key)}), not a direction",
                hint="steer reads manifolds of one axis between two poles",
            )
        if match[2] == "basis" and (array.ndim not in (1, 2) or np.squeeze(array).ndim != 1):
            raise VectorError(f"{subject}: {shortened(key)} is no single direction")
        layers.setdefault(int(match[1]), {})[match[2]] = array
    return {layer: tensors for layer, tensors in sorted(layers.items()) if "basis" in tensors}


def _pole(positions: NDArray[Any], share: float, subject: str) -> tuple[float, float]:
    """The position of the first pole on the axis, and its Mahalanobis distance from neutral.

    The share is the Mahalanobis length of one pole, or the root of the sum of squares of the
    distances of two poles from their mean, from which the length of the unit vector follows.
    """
    if positions.ndim != 2 or positions.shape[1] != 1:
        raise VectorError(f"{subject}: its node_coords are {list(positions.shape)}, not [poles, 1]")
    coords = checked_row(positions[:, 0], subject).astype(np.float64)
    if len(coords) > 2:
        raise VectorError(
            f"{subject} has {len(coords)} poles on one axis, not one or two",
            hint="steer reads manifolds of one axis between two poles",
        )
    spread = abs(coords[0]) if len(coords) == 1 else float(np.linalg.norm(coords - coords.mean()))
    if not spread or not coords[0]:
        raise VectorError(f"{subject}: its pole is at the origin, so it has no direction")
    return float(coords[0]), float(abs(coords[0])) * share / spread


FORMAT = Format(
    name="saklas",
    title="saklas",
    help="a manifold's MODEL.safetensors and MODEL.json, or their folder; one axis only",
    suffixes=(".safetensors", FOLDER),
    read=_read,
    detect=_detect,
    options=("pick",),
)
