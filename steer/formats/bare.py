"""Read bare arrays, and dictionaries of arrays with a few facts beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steer.base.errors import UsageError, VectorError
from steer.formats.imported import (
    ImportedVector,
    checked_directions,
    coefficient_of,
    shortened,
)
from steer.formats.keys import SAME, by_name, site_of
from steer.formats.source import Options
from steer.vectors.sites import listed

Array = NDArray[Any]

#: Keys of the vector in a dictionary with one vector, and of facts that do not change its meaning.
_VECTORS = ("vector", "direction", "steering_vector", "v")
_FACTS = ("model", "model_name", "model_id", "name", "description", "method", "created", "date")
_COEFFICIENTS = ("coefficient", "coeff", "alpha", "multiplier", "steering_coefficient")


def table(array: Array, subject: str, options: Options) -> ImportedVector:
    """A vector, a table with a vector per row, or a stack [row, layer, d_model], at the layers that
    the user names.

    Raises:
        UsageError: the layers are not given, or do not match the number of rows.
        VectorError: not numbers, or of more dimensions.
    """
    if array.dtype.kind not in "fiu" or array.ndim not in (1, 2, 3) or not array.size:
        raise VectorError(f"{subject}: shape {list(array.shape)} is not a table of numbers")
    if array.ndim == 3 and 1 not in array.shape[:2]:
        return _stack(array, subject, options)
    rows = np.atleast_2d(np.squeeze(array)) if array.ndim == 3 else np.atleast_2d(array)
    layers, row = options.layers, options.row
    if row is not None:
        rows = _row(rows, row, subject)
    if layers is None:
        raise UsageError(
            f"{subject} does not say at which layer it belongs",
            hint="pass --layer" + (" (and --row)" if len(rows) > 1 else ""),
        )
    if len(layers) != len(rows):
        raise UsageError(
            f"{subject} has {len(rows)} rows, for {len(layers)} layers",
            hint="name as many layers with --layer, or choose one row with --row",
        )
    return ImportedVector(
        checked_directions(zip(layers, rows, strict=True), subject),
        convention=f"{SAME}, as --layer says",
    )


def _stack(array: Array, subject: str, options: Options) -> ImportedVector:
    """[row, layer, d_model]: candidates by position or concept, at every layer."""
    if options.row is None or options.layers is None:
        n_rows, n_layers, _ = array.shape
        raise UsageError(
            f"{subject} has the shape {list(array.shape)}, read as [row, layer, d_model]",
            hint=f"choose with --row (0-{n_rows - 1}) and --layer (0-{n_layers - 1})",
        )
    chosen = _row(array, options.row, subject)[0]
    if max(options.layers) >= len(chosen):
        raise UsageError(f"{subject} has layers 0-{len(chosen) - 1}")
    return ImportedVector(
        checked_directions([(layer, chosen[layer]) for layer in options.layers], subject),
        convention=f"the shape is [row, layer, d_model]; {SAME}",
    )


def _row(rows: Array, row: int, subject: str) -> Array:
    if not 0 <= row < len(rows):
        raise UsageError(f"{subject} has no row {row}", hint=f"it has 0-{len(rows) - 1}")
    return rows[row : row + 1]


def tree(content: Any, subject: str, options: Options) -> ImportedVector:
    """An array, arrays by layer, or one array beside facts such as its layer and its model.

    Raises:
        UsageError: the layers are not given.
        VectorError: not a vector, or with entries that could change its meaning.
    """
    if isinstance(content, np.ndarray):
        return table(content, subject, options)
    if not isinstance(content, Mapping) or not content:
        raise VectorError(f"{subject} holds a {type(content).__name__}, not vectors")
    if options.pick is not None:
        return _pick(content, options.pick, subject, options)
    arrays = {key: value for key, value in content.items() if isinstance(value, np.ndarray)}
    if len(arrays) == len(content):
        named = [key for key in arrays if site_of(key, subject) is not None]
        if len(arrays) == 1 and (options.layers is not None or not named):
            return table(next(iter(arrays.values())), subject, options)
        return by_name(arrays, subject)
    return _one_with_facts(content, subject, options)


def _pick(content: Mapping[str, Any], name: str, subject: str, options: Options) -> ImportedVector:
    if name not in content:
        raise UsageError(
            f"{subject} has no {name!r}",
            hint=f"it has {listed(shortened(key) for key in list(content)[:20])}",
        )
    picked = content[name]
    if not isinstance(picked, np.ndarray):
        raise VectorError(f"{subject}: {shortened(name)!r} is not an array")
    if options.layers is None and site_of(name, subject) is not None:
        return by_name({name: picked}, subject)
    return table(picked, subject, options)


def _one_with_facts(content: Mapping[str, Any], subject: str, options: Options) -> ImportedVector:
    """`{"layer": 2, "vector": ..., "model": ...}`."""
    vectors = [key for key, value in content.items() if isinstance(value, np.ndarray)]
    known = {"layer", *_FACTS, *_COEFFICIENTS, *_VECTORS}
    unknown = [shortened(key) for key in content if key not in known]
    if len(vectors) != 1 or vectors[0] not in _VECTORS or unknown:
        raise VectorError(
            f"{subject} holds {listed(shortened(key) for key in list(content)[:20])}, which is not"
            " a known layout",
            hint="choose one tensor with --pick NAME --layer N",
        )
    coefficients = [key for key in _COEFFICIENTS if key in content]
    if len(coefficients) > 1:
        raise VectorError(f"{subject} has several coefficients: {listed(coefficients)}")
    coefficient = 1.0
    if coefficients:
        name = coefficients[0]
        coefficient = coefficient_of(content[name], subject, name)
    layer = content.get("layer")
    if options.layers is None and layer is not None and type(layer) is not int:
        raise VectorError(f"{subject} has a layer {shortened(layer)}")
    layers = options.layers
    if layers is None and type(layer) is int:
        layers = (layer,)
    read = table(content[vectors[0]], subject, Options(layers=layers))
    model = next((content[key] for key in _FACTS[:3] if isinstance(content.get(key), str)), "")
    return ImportedVector(
        read.directions,
        convention=f"`layer` is the layer; {SAME}" if options.layers is None else read.convention,
        coefficient=coefficient,
        model=shortened(model),
    )
