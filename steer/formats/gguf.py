"""A strict reader and a writer of GGUF control vectors. Files are hostile input.

The format (github.com/ggml-org/ggml, docs/gguf.md): a header of typed key-value pairs, then a name,
a shape, a type and an offset for each tensor, then their bytes, aligned. Everything little endian.
The `gguf` package maps files into memory and trusts the counts in them, so it is not used here; the
tests compare reader and writer with it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from steer.base.errors import VectorError
from steer.formats.imported import shortened
from steer.vectors.vector import Directions

#: struct's letter for each type of number. Texts and arrays have types of their own.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?"} | {
    10: "Q",
    11: "q",
    12: "d",
}
UINT32, INT32, FLOAT32, BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_F32 = 0
_ALIGNMENT = 32
_MAX_ENTRIES = 10_000
_MAX_TEXT = 65_536


@dataclass(frozen=True, slots=True)
class Value:
    """A value and its GGUF type; an array has only its type."""

    type: int
    value: Any


@dataclass(frozen=True, slots=True)
class Gguf:
    """Key-value pairs, and tensors of one dimension."""

    values: Mapping[str, Value]
    tensors: Mapping[str, Directions]

    def text(self, key: str) -> str:
        """The text of a key, or "" if there is none."""
        value = self.values.get(key)
        return value.value if value is not None and value.type == _STRING else ""


class _Cursor:
    """Reads bytes from front to back, never past their end."""

    def __init__(self, data: bytes, subject: str) -> None:
        self.data, self.subject, self.at = data, subject, 0

    def take(self, length: int) -> bytes:
        if length > len(self.data) - self.at:
            raise VectorError(f"{self.subject} is cut off: it ends within its header")
        self.at += length
        return self.data[self.at - length : self.at]

    def number(self, letter: str) -> Any:
        form = struct.Struct("<" + letter)
        return form.unpack(self.take(form.size))[0]

    def count(self, noun: str, limit: int = _MAX_ENTRIES) -> int:
        n = int(self.number("Q"))
        if n > limit:
            raise VectorError(f"{self.subject} has {n:,} {noun}, more than {limit:,}")
        return n

    def text(self) -> str:
        raw = self.take(self.count("bytes in one text", _MAX_TEXT))
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise VectorError(f"{self.subject}: a text in its header is not UTF-8") from None


def parse(data: bytes, subject: str) -> Gguf:
    """Parse a GGUF file of a few small tensors.

    Raises:
        VectorError: not GGUF, truncated, an unsupported version or layout, a duplicate name, or
            larger than a control vector.
    """
    cursor = _Cursor(data, subject)
    if data[:4] != b"GGUF":
        raise VectorError(f"{subject} is not a GGUF file")
    cursor.take(4)
    version = cursor.number("I")
    if version not in (2, 3):
        raise VectorError(f"{subject} is GGUF version {version}; only 2 and 3 can be read")
    n_tensors, n_values = cursor.count("tensors"), cursor.count("values")
    values: dict[str, Value] = {}
    for _ in range(n_values):
        key = cursor.text()
        if key in values:
            raise VectorError(f"{subject}: the key {shortened(key)!r} occurs twice")
        values[key] = _value(cursor, cursor.number("I"))
    infos: dict[str, tuple[int, int]] = {}
    for _ in range(n_tensors):
        name = cursor.text()
        if name in infos:
            raise VectorError(f"{subject}: the tensor {shortened(name)!r} occurs twice")
        infos[name] = _tensor_info(cursor, name)
    start = _aligned(cursor.at, _alignment(values, subject))
    if 4 * sum(length for length, _ in infos.values()) > len(data):
        raise VectorError(f"{subject} is cut off, or its tensors overlap")
    return Gguf(values, {name: _tensor(data, start, *infos[name], subject) for name in infos})


def _value(cursor: _Cursor, kind: int) -> Value:
    if kind in _NUMBERS:
        return Value(kind, cursor.number(_NUMBERS[kind]))
    if kind == _STRING:
        return Value(kind, cursor.text())
    if kind == _ARRAY:
        of = cursor.number("I")
        if of in _NUMBERS:
            size = struct.calcsize("<" + _NUMBERS[of])
            cursor.take(size * cursor.count("array elements", len(cursor.data)))
        elif of == _STRING:
            for _ in range(cursor.count("array elements")):
                cursor.text()
        else:
            raise VectorError(f"{cursor.subject}: an array of type {of} in its header")
        return Value(kind, None)
    raise VectorError(f"{cursor.subject}: a value of type {kind} in its header")


def _tensor_info(cursor: _Cursor, name: str) -> tuple[int, int]:
    """Length and offset of a tensor, which has to be one row of float32."""
    subject = f"{cursor.subject}: tensor {shortened(name)!r}"
    shape = [cursor.number("Q") for _ in range(min(cursor.number("I"), 5))]
    if len(shape) != 1:
        raise VectorError(
            f"{subject} has {'more than 4' if len(shape) > 4 else len(shape)} dimensions, not one",
            hint="is this a control vector, and not a model?",
        )
    kind = cursor.number("I")
    if kind != _F32:
        raise VectorError(f"{subject} is not float32 (GGUF's tensor type {kind})")
    return shape[0], cursor.number("Q")


def _alignment(values: Mapping[str, Value], subject: str) -> int:
    stated = values.get("general.alignment")
    if stated is None:
        return _ALIGNMENT
    if stated.type != UINT32 or stated.value not in (
        8,
        16,
        32,
        64,
        128,
        256,
        512,
        1024,
        2048,
        4096,
    ):
        raise VectorError(f"{subject}: a wrong general.alignment")
    return int(stated.value)


def _tensor(data: bytes, start: int, length: int, offset: int, subject: str) -> Directions:
    if length > len(data) // 4 or start + offset + 4 * length > len(data):
        raise VectorError(f"{subject} is cut off: the numbers of a tensor are missing")
    return np.frombuffer(data, dtype="<f4", count=length, offset=start + offset)


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def build(
    values: Mapping[str, str | int | float | bool], tensors: Mapping[str, Directions]
) -> bytes:
    """The bytes of a GGUF file, version 3, with these values and rows of float32.

    An int is written as uint32, a float as float32. The same arguments in the same order give the
    same bytes.
    """
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(values))]
    for key, value in values.items():
        head.append(_text(key))
        if isinstance(value, bool):
            head.append(struct.pack("<I?", BOOL, value))
        elif isinstance(value, int):
            head.append(struct.pack("<II", UINT32, value))
        elif isinstance(value, float):
            head.append(struct.pack("<If", FLOAT32, value))
        else:
            head += [struct.pack("<I", _STRING), _text(value)]
    blobs = [np.ascontiguousarray(row, dtype="<f4").tobytes() for row in tensors.values()]
    offset = 0
    for name, blob in zip(tensors, blobs, strict=True):
        head += [_text(name), struct.pack("<IQIQ", 1, len(blob) // 4, _F32, offset)]
        offset = _aligned(offset + len(blob), _ALIGNMENT)
    return b"".join(map(_padded, [b"".join(head), *blobs]))


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _padded(data: bytes) -> bytes:
    return data.ljust(_aligned(len(data), _ALIGNMENT), b"\0")
