"""Read zip archives as hostile input: in memory, within limits, without paths that escape."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from steer.base.errors import VectorError
from steer.formats.imported import MAX_BYTES, shortened

_MAX_MEMBERS = 1_000
#: The compression methods that Python's tools write.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
#: Exceptions that zipfile raises for broken archives, in different versions of Python.
_BROKEN = (
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
)


class _View(io.RawIOBase):
    """A memory-mapped file as a file object."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(offset + (0, self._at, len(self._data))[whence], 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        part = self._data[self._at : self._at + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


def stored_members(data: memoryview, subject: str) -> dict[str, memoryview]:
    """The members of a large uncompressed archive, without a copy.

    Raises:
        VectorError: as `members`, or a member is compressed.
    """
    try:
        with zipfile.ZipFile(_View(data)) as archive:
            infos = _files(archive)
        _check(infos, subject, limit=len(data))
        return {info.filename: _stored(data, info, subject) for info in infos}
    except _BROKEN as error:
        raise VectorError(f"{subject} is not a complete zip archive: {error}") from None


def _stored(data: memoryview, info: zipfile.ZipInfo, subject: str) -> memoryview:
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise VectorError(f"{subject} is compressed, and larger than {MAX_BYTES:,} bytes")
    # The local header ends with the lengths of its own name and extra field.
    head = struct.unpack("<4s22xHH", data[info.header_offset : info.header_offset + 30])
    start = info.header_offset + 30 + head[1] + head[2]
    if head[0] != b"PK\x03\x04" or start + info.file_size > len(data):
        raise VectorError(f"{subject} is not a complete zip archive")
    return data[start : start + info.file_size]


def members(data: bytes, subject: str) -> dict[str, bytes]:
    """The files in an archive by name.

    Raises:
        VectorError: the archive is incomplete, has too many or too large members, a duplicate name,
            a path that leads out of it, a link, or an unusual compression.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = _files(archive)
            _check(infos, subject, limit=MAX_BYTES)
            return {info.filename: _unpacked(archive, info) for info in infos}
    except _BROKEN as error:
        raise VectorError(f"{subject} is not a complete zip archive: {error}") from None


def _files(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The members that are not folders, whose names end in a slash."""
    return [info for info in archive.infolist() if not info.filename.endswith("/")]


def _check(infos: Sequence[zipfile.ZipInfo], subject: str, *, limit: int) -> None:
    if len(infos) > _MAX_MEMBERS:
        raise VectorError(f"{subject} has more than {_MAX_MEMBERS:,} members")
    if sum(info.file_size for info in infos) > limit:
        raise VectorError(f"{subject} unpacks to more than {limit:,} bytes")
    names = set()
    for info in infos:
        if not info.filename:
            raise VectorError(f"{subject} has a member without a name")
        parts = PurePosixPath(info.filename).parts
        if ".." in parts or info.filename.startswith("/") or set("\\\0:") & set(info.filename):
            raise VectorError(
                f"{subject} has a member {shortened(info.filename)!r}, a path out of the archive"
            )
        if info.external_attr >> 16 & 0o170000 == 0o120000:
            raise VectorError(f"{subject} has a link, {shortened(info.filename)!r}")
        if info.filename in names:
            raise VectorError(f"{subject} has the member {shortened(info.filename)!r} twice")
        names.add(info.filename)
        if info.compress_type not in _METHODS:
            raise VectorError(f"{subject} is compressed by a method that Python does not write")


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member, at most as long as its header says."""
    with archive.open(info) as file:
        return file.read(info.file_size)


def written(contents: dict[str, bytes]) -> bytes:
    """An archive without compression and timestamps: equal contents give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()
