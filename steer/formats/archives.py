"""Zip archives as hostile input: in memory, bounded, with names that stay inside."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import PurePosixPath

from steer.base.errors import VectorError
from steer.formats.imported import MAX_BYTES, shortened

_MAX_MEMBERS = 1_000
#: How tools of Python pack what they write.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
#: What zipfile raises of broken archives, by Python version.
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


def members(data: bytes, subject: str, *, only: Sequence[str] | None = None) -> dict[str, bytes]:
    """The members of an archive by name, folders left out.

    only: the names to unpack; the others are checked by their headers alone.

    Raises:
        VectorError: not a whole archive, too many or too large members, a name twice, a name that
            leads out of the archive, a link, or a packing that is not usual.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            _check(infos, subject)
            return {
                info.filename: _unpacked(archive, info)
                for info in infos
                if only is None or info.filename in only
            }
    except _BROKEN as error:
        raise VectorError(f"{subject} is not a whole zip archive: {error}") from None


def _check(infos: Sequence[zipfile.ZipInfo], subject: str) -> None:
    if len(infos) > _MAX_MEMBERS:
        raise VectorError(f"{subject} has more than {_MAX_MEMBERS:,} members")
    if sum(info.file_size for info in infos) > MAX_BYTES:
        raise VectorError(f"{subject} unpacks to more than {MAX_BYTES:,} bytes")
    names = set()
    for info in infos:
        parts = PurePosixPath(info.filename).parts
        if ".." in parts or info.filename.startswith("/") or set("\\\0:") & set(info.filename):
            raise VectorError(
                f"{subject} has a member {shortened(info.filename)!r}, which leads out"
            )
        if info.external_attr >> 16 & 0o170000 == 0o120000:
            raise VectorError(f"{subject} has a link, {shortened(info.filename)!r}")
        if info.filename in names:
            raise VectorError(f"{subject} has the member {shortened(info.filename)!r} twice")
        names.add(info.filename)
        if info.compress_type not in _METHODS:
            raise VectorError(f"{subject} is packed in a way that Python's tools do not write")


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member, no longer than it says, however well it was packed."""
    with archive.open(info) as file:
        return file.read(info.file_size)


def written(contents: dict[str, bytes]) -> bytes:
    """An archive without packing and without timestamps: equal contents give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()
