"""numpy's `.npy` and `.npz`, read without numpy's own reader.

That one evaluates the header as Python and reserves what its shape asks for before it looks at
the file's length. Headers as numpy writes them are a fixed form, which a pattern knows.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steer.base.errors import VectorError
from steer.formats.foreign import MAX_BYTES, Foreign, checked_rows, shortened
from steer.vectors.sites import SITE_NAMES, SiteName
from steer.vectors.vector import Directions

_MAGIC = b"\x93NUMPY"
_HEADER = re.compile(
    r"\{'descr': '([<>|=][A-Za-z][0-9]{1,5})', 'fortran_order': (True|False),"
    r" 'shape': \(([0-9, ]{0,80})\), \}\s*"
)
_MEMBERS = ("directions", "layers", "site")


def parse(data: bytes, subject: str) -> NDArray[Any]:
    """The array of a `.npy` file: numbers, or text.

    Raises:
        VectorError: not one, cut off, or of Python objects.
    """
    if data[:6] != _MAGIC or len(data) < 12:
        raise VectorError(f"{subject} is not a .npy file")
    form = "<H" if data[6] == 1 else "<I"
    start = 8 + struct.calcsize(form)
    (length,) = struct.unpack(form, data[8:start])
    header = _HEADER.fullmatch(data[start : start + min(length, 10_000)].decode("latin-1"))
    if header is None:
        raise VectorError(f"{subject}: its header is none that numpy writes of a plain array")
    kind, fortran, sizes = header.groups()
    if kind[1] not in "fiuU":
        raise VectorError(f"{subject} holds {kind!r}, not numbers")
    try:
        shape = tuple(int(size) for size in sizes.split(",") if size.strip())
        dtype = np.dtype(kind)
    except (TypeError, ValueError):
        raise VectorError(f"{subject}: its header is none that numpy writes") from None
    body = data[start + length :]
    if not dtype.itemsize or math.prod(shape) * dtype.itemsize != len(body):
        raise VectorError(f"{subject}: its numbers are not as many as its header says")
    return np.frombuffer(body, dtype).reshape(shape, order="F" if fortran == "True" else "C")


def read_npz(data: bytes, subject: str) -> Foreign:
    """What `write_npz` wrote.

    Raises:
        VectorError: another layout, or something wrong with it.
    """
    members = _members(data, subject)
    if set(members) != set(_MEMBERS):
        raise VectorError(f"{subject} does not have the arrays {', '.join(_MEMBERS)}")
    named = {name: parse(members[name], f"{subject}, {name}") for name in _MEMBERS}
    layers, directions = named["layers"], named["directions"]
    if layers.ndim != 1 or layers.dtype.kind not in "iu" or directions.ndim != 2:
        raise VectorError(f"{subject}: layers are to be [n] integers, directions [n, d_model]")
    if directions.dtype.kind == "U" or len(layers) != len(directions):
        raise VectorError(f"{subject} has {len(layers)} layers and {len(directions)} directions")
    return Foreign(
        format="npz",
        rows=checked_rows(zip(layers.tolist(), directions, strict=True), subject),
        shift=0,
        convention="layers are blocks, counted from 0",
        site=_site(str(named["site"]), subject),
    )


def _site(text: str, subject: str) -> SiteName:
    for name in SITE_NAMES:
        if name == text:
            return name
    raise VectorError(f"{subject}: {shortened(text)!r} is not a site")


#: How numpy packs what it writes.
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def _members(data: bytes, subject: str) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if len(infos) > len(_MEMBERS) or sum(i.file_size for i in infos) > MAX_BYTES:
                raise VectorError(f"{subject} holds more than one vector's arrays")
            if any(i.compress_type not in _PACKED for i in infos):
                raise VectorError(f"{subject} is packed in a way that numpy does not write")
            return {info.filename.removesuffix(".npy"): _unpacked(archive, info) for info in infos}
    # What zipfile raises of broken archives, by Python version.
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        KeyError,
        NotImplementedError,
        OSError,
        OverflowError,
        RuntimeError,
        ValueError,
        struct.error,
    ) as error:
        raise VectorError(f"{subject} is not a whole .npz file: {error}") from None


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member, no longer than it says, however well it was packed."""
    with archive.open(info) as file:
        return file.read(info.file_size)


def write_npz(rows: Mapping[int, Directions], *, site: SiteName) -> bytes:
    """`directions` float32 [n, d_model], `layers` int64 [n] and `site`, for `numpy.load`.

    The same rows give the same bytes: no timestamps.
    """
    layers = sorted(rows)
    arrays = {
        "directions": np.stack([rows[layer] for layer in layers]).astype("<f4"),
        "layers": np.array(layers, dtype="<i8"),
        "site": np.array(site),
    }
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue())
    return made.getvalue()
