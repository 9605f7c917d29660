"""Read numpy's `.npy` and `.npz` without numpy's own reader.

That reader evaluates the header as Python, and allocates memory for its shape before it checks the
length of the file. numpy always writes headers in one form, which a regular expression matches.
"""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steer.base.errors import VectorError
from steer.formats.archives import members, stored_members, written
from steer.formats.imported import shortened

_MAGIC = b"\x93NUMPY"
_HEADER = re.compile(
    r"\{'descr': '([<>|=][A-Za-z][0-9]{1,5})', 'fortran_order': (True|False),"
    r" 'shape': \(([0-9, ]{0,80})\), \}\s*"
)


def parse(data: bytes | memoryview, subject: str) -> NDArray[Any]:
    """The array of a `.npy` file: numbers, or text.

    Raises:
        VectorError: the file is not .npy, is truncated, or holds Python objects.
    """
    if data[:6] != _MAGIC or len(data) < 12:
        raise VectorError(f"{subject} is not a .npy file")
    form = "<H" if data[6] == 1 else "<I"
    start = 8 + struct.calcsize(form)
    (length,) = struct.unpack(form, data[8:start])
    raw = bytes(data[start : start + min(length, 10_000)])
    header = _HEADER.fullmatch(raw.decode("latin-1"))
    if header is None:
        raise VectorError(f"{subject}: its header is not one that numpy writes for a plain array")
    kind, fortran, sizes = header.groups()
    if kind[1] not in "fiuU":
        raise VectorError(f"{subject} holds {kind!r}, not numbers")
    try:
        shape = tuple(int(size) for size in sizes.split(",") if size.strip())
        dtype = np.dtype(kind)
    except (TypeError, ValueError):
        raise VectorError(f"{subject}: its header is not one that numpy writes") from None
    body = data[start + length :]
    if not dtype.itemsize or math.prod(shape) * dtype.itemsize != len(body):
        raise VectorError(f"{subject}: its length does not match its header")
    return np.frombuffer(body, dtype).reshape(shape, order="F" if fortran == "True" else "C")


def parse_npz(data: bytes | memoryview, subject: str) -> dict[str, NDArray[Any]]:
    """The arrays of a `.npz` file by name.

    Raises:
        VectorError: the file is incomplete, or a member is not an array of numbers or text.
    """
    contents: Mapping[str, bytes | memoryview]
    contents = members(data, subject) if isinstance(data, bytes) else stored_members(data, subject)
    return {
        name.removesuffix(".npy"): parse(content, f"{subject}, {shortened(name)}")
        for name, content in contents.items()
    }


def build_npz(named: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of a `.npz` file for `numpy.load`. Equal arrays give equal bytes."""
    contents = {}
    for name, array in named.items():
        content = io.BytesIO()
        np.save(content, array, allow_pickle=False)
        contents[f"{name}.npy"] = content.getvalue()
    return written(contents)
