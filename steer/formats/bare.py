"""Numbers with little or nothing around them: what is in them, and at which layers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steer.base.errors import UsageError, VectorError
from steer.base.strict_json import load_strict_json
from steer.formats.foreign import Foreign, checked_rows, layer_number, shortened
from steer.vectors import store

Array = NDArray[Any]

_SAME = "layer N is the output of block N, counted from 0"
_NUMBERED = re.compile(r"(?:layers?|direction|block)?[._]?([0-9]{1,5})")
_STEERING_LITE = re.compile(r"layer([0-9]{1,5})\.(.+)")
#: A coefficient that no activation survives.
_MOST = 1e30
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


def table(
    array: Array, subject: str, *, format: str, layers: Sequence[int] | None, row: int | None
) -> Foreign:
    """A vector, or a table of one a row, at layers that the user names.

    row: of a table with several vectors for one layer, the one to take.

    Raises:
        UsageError: it is not said where they belong, or as many as there are.
        VectorError: not numbers, or of more dimensions.
    """
    if array.dtype.kind not in "fiu" or array.ndim not in (1, 2) or not array.size:
        raise VectorError(f"{subject}: shape {list(array.shape)} is no table of numbers")
    rows = np.atleast_2d(array)
    if row is not None:
        if not 0 <= row < len(rows):
            raise UsageError(f"{subject} has no row {row}", hint=f"it has 0-{len(rows) - 1}")
        rows = rows[row : row + 1]
    if layers is None:
        raise UsageError(
            f"{subject} does not say at which layer it belongs",
            hint="name it, with --layer" + (" (and --row)" if len(rows) > 1 else ""),
        )
    if len(layers) != len(rows):
        raise UsageError(
            f"{subject} has {len(rows)} rows, for {len(layers)} layers",
            hint="name as many layers, with --layer, or take one row, with --row",
        )
    return Foreign(
        format=format,
        rows=checked_rows(zip(layers, rows, strict=True), subject),
        shift=0,
        convention=_SAME,
        notes=_axbench() if format == "axbench" else (),
    )


def _axbench() -> tuple[str, ...]:
    return ("AxBench multiplies a row by a factor and by the concept's largest activation",)


def by_layer(named: Mapping[str, Array], subject: str, *, format: str) -> Foreign:
    """One vector for each layer, by names such as `layer.3`.

    Raises:
        VectorError: names without a layer.
    """
    rows = []
    for name, row in named.items():
        found = _NUMBERED.fullmatch(name)
        if found is None:
            raise VectorError(
                f"{subject} has a tensor {shortened(name)!r}, which does not name a layer",
                hint="call them layer.0, layer.1 and so on, or give one alone and --layer",
            )
        rows.append((layer_number(found[1], subject), np.squeeze(row)))
    return Foreign(format=format, rows=checked_rows(rows, subject), shift=0, convention=_SAME)


def read_safetensors(
    data: bytes, subject: str, *, layers: Sequence[int] | None, row: int | None
) -> Foreign:
    """steering-lite's file, one tensor, or tensors named after layers.

    Raises:
        VectorError: not safetensors, or tensors that are no vectors.
        UsageError: it is not said where one tensor belongs.
    """
    raw = store.raw_header(data, len(data), subject)
    texts = raw.pop("__metadata__", None)
    start = 8 + int.from_bytes(data[:8], "little")
    if sum(map(_length, raw.values())) > len(data):
        raise VectorError(f"{subject}: its tensors overlap")
    named = {name: _tensor(data, start, raw[name], f"{subject}, {name}") for name in raw}
    if isinstance(texts, dict) and isinstance(texts.get("cfg"), str):
        return _steering_lite(named, texts["cfg"], subject)
    if len(named) == 1 and (layers is not None or not _NUMBERED.fullmatch(next(iter(named)))):
        only = next(iter(named.values()))
        return table(only, subject, format="safetensors", layers=layers, row=row)
    return by_layer(named, subject, format="safetensors")


def _length(entry: Any) -> int:
    """Bytes of a tensor, as its header has them; what that gets wrong, `_tensor` tells."""
    match entry:
        case {"data_offsets": [int(first), int(last)]}:
            return max(last - first, 0)
    return 0


def _tensor(data: bytes, start: int, entry: Any, subject: str) -> Array:
    try:
        kind, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
        body = data[start + first : start + last]
        if min(first, last, *shape, 0) < 0:
            raise ValueError("negative")
        if kind == "BF16":
            wide = np.frombuffer(body, "<u2").astype("<u4") << 16
            return np.asarray(wide.view("<f4").reshape(shape))
        return np.asarray(np.frombuffer(body, _DTYPES[kind]).reshape(shape))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise VectorError(
            f"{shortened(subject)}: not a tensor of numbers",
            hint="F64, F32, F16 and BF16 are read",
        ) from None


def _steering_lite(named: Mapping[str, Array], config: str, subject: str) -> Foreign:
    """One tensor a layer, called `v`, and settings as JSON in the metadata."""
    cfg = load_strict_json(config, f"{subject}, cfg")
    method = str(cfg.get("method")) if isinstance(cfg, dict) else ""
    rows = []
    for name, array in named.items():
        found = _STEERING_LITE.fullmatch(name)
        if found is None or found[2] != "v":
            raise VectorError(
                f"{subject}: steering-lite's {shortened(method)} keeps {shortened(name)!r}, which"
                " is more than one vector a layer",
                hint="methods that keep one vector, such as mean_diff, can be read",
            )
        rows.append((layer_number(found[1], subject), array))
    return Foreign(
        format="steering-lite",
        rows=checked_rows(rows, subject),
        shift=0,
        convention="layer N was measured at the output of block N, where steering-lite adds it",
        coefficient=_coefficient(cfg, subject),
        notes=() if method in _ADDED else (f"steering-lite's {shortened(method)} is no addition",),
    )


_ADDED = ("mean_diff", "pca", "random")


def _coefficient(cfg: Any, subject: str) -> float:
    """What steering-lite multiplies the vectors with; 1 where the file does not say.

    Raises:
        VectorError: it says what is no number.
    """
    said = cfg.get("coeff", 1.0) if isinstance(cfg, dict) else 1.0
    if type(said) not in (int, float) or not abs(said) <= _MOST:
        raise VectorError(f"{subject}: its coeff is {shortened(said)!r}, which is no coefficient")
    return float(said)
