"""Read any safetensors file as hostile input: its tensors as arrays, and its texts.

Tensors are copied on access only, so a memory-mapped file may be large.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steer.base.errors import VectorError
from steer.formats.imported import MAX_BYTES, shortened
from steer.vectors import store

Array = NDArray[Any]
#: Bytes, or a memory-mapped file.
Data = bytes | memoryview

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4"}
#: The most bytes of a header.
_MAX_HEADER = 5_000_000


class Tensors(Mapping[str, Array]):
    """Arrays by name, in the order of the header; bfloat16 is widened to float32 on access.

    texts: those of `__metadata__`.
    """

    def __init__(
        self, raw: Mapping[str, tuple[Array, bool]], texts: Mapping[str, str], subject: str
    ) -> None:
        self._raw, self.texts, self._subject = raw, texts, subject

    @property
    def arrays(self) -> Mapping[str, Array]:
        """The arrays, without the texts."""
        return self

    def __getitem__(self, name: str) -> Array:
        if self._raw[name][0].nbytes > MAX_BYTES:
            raise VectorError(
                f"{self._subject}: {shortened(name)!r} has {self._raw[name][0].nbytes:,} bytes,"
                f" more than {MAX_BYTES:,}"
            )
        return self._plain(name, slice(None))

    def __contains__(self, name: object) -> bool:
        return name in self._raw

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._raw[name][0].shape

    def row(self, name: str, index: int) -> Array:
        """One row of a tensor, without the others."""
        return np.asarray(self._plain(name, slice(index, index + 1))[0])

    def _plain(self, name: str, part: slice) -> Array:
        array, half = self._raw[name]
        chosen = array[part] if array.ndim else array
        return np.asarray((chosen.astype("<u4") << 16).view("<f4") if half else chosen)


def parse(data: Data, subject: str) -> Tensors:
    """All tensors of a file.

    Raises:
        VectorError: not safetensors, or with tensors that are not numbers.
    """
    raw = store.raw_header(bytes(data[:_MAX_HEADER]), len(data), subject)
    texts = raw.pop("__metadata__", None)
    start = 8 + int.from_bytes(data[:8], "little")
    if sum(map(_length, raw.values())) > len(data):
        raise VectorError(f"{subject}: its tensors overlap")
    raw_tensors = {name: _tensor(data, start, raw[name], f"{subject}, {name}") for name in raw}
    plain = texts.items() if isinstance(texts, dict) else ()
    return Tensors(raw_tensors, {k: text for k, text in plain if isinstance(text, str)}, subject)


def _length(entry: Any) -> int:
    """The bytes of a tensor according to its header entry; `_tensor` reports a wrong entry."""
    match entry:
        case {"data_offsets": [int(first), int(last)]}:
            return max(last - first, 0)
    return 0


def _tensor(data: Data, start: int, entry: Any, subject: str) -> tuple[Array, bool]:
    """The stored numbers, and whether they are bfloat16, the upper halves of float32."""
    try:
        kind, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if min(first, last, *shape, 0) < 0:
            raise ValueError("negative")
        body = data[start + first : start + last]
        return np.frombuffer(body, _DTYPES[kind]).reshape(shape), kind == "BF16"
    except (KeyError, TypeError, ValueError, OverflowError):
        raise VectorError(
            f"{shortened(subject)}: not a tensor of numbers",
            hint="steer reads F64, F32, F16, BF16, I64 and I32",
        ) from None
