"""Any safetensors file as hostile input: its tensors as arrays, and its texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steer.base.errors import VectorError
from steer.formats.imported import shortened
from steer.vectors import store

Array = NDArray[Any]

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"}


@dataclass(frozen=True, slots=True)
class Tensors:
    """Arrays by name, in the order of the header, and the texts of `__metadata__`."""

    arrays: Mapping[str, Array]
    texts: Mapping[str, str]


def parse(data: bytes, subject: str) -> Tensors:
    """All tensors of a file; bfloat16 is widened to float32.

    Raises:
        VectorError: not safetensors, or tensors that are no numbers.
    """
    raw = store.raw_header(data, len(data), subject)
    texts = raw.pop("__metadata__", None)
    start = 8 + int.from_bytes(data[:8], "little")
    if sum(map(_length, raw.values())) > len(data):
        raise VectorError(f"{subject}: its tensors overlap")
    arrays = {name: _tensor(data, start, raw[name], f"{subject}, {name}") for name in raw}
    plain = texts.items() if isinstance(texts, dict) else ()
    return Tensors(arrays, {key: text for key, text in plain if isinstance(text, str)})


def _length(entry: Any) -> int:
    """Bytes of a tensor, as its header has them; what that gets wrong, `_tensor` reports."""
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
            hint="F64, F32, F16, BF16, I64 and I32 are read",
        ) from None
