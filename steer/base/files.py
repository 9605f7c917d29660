"""The one place that opens files: bounded reads of regular files, and atomic writes.

Which function to read with:

    read_bytes      a file that the user, another file or a folder names: regular files only
    read_typed      a file that the user typed, where a stream (`-`, `<(...)`) makes sense too
    read_cached     a file of the user's cache folder: only if nobody else can have written it;
                    `write_cached` and `append_cached` write there
    open_regular    the same as `read_bytes` for a caller that reads in parts
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import BinaryIO

from steer.base.errors import SteerError, UsageError
from steer.base.processes import follows

_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


def check_writable(path: Path, *, force: bool) -> None:
    """Check before the work that `path` can be written.

    Raises:
        SteerError: the folder is missing or not writable, or the file exists and `force` is off.
    """
    if follows():
        return
    folder = path.parent
    with reported(path):
        if not folder.is_dir():
            raise SteerError(
                f"the folder {folder} does not exist", hint=f"mkdir -p {quote(str(folder))}"
            )
        if path.exists():
            _check_regular(path, path.stat())
        if not os.access(folder, os.W_OK):
            raise SteerError(f"the folder {folder} is not writable")
        if path.exists() and not force:
            raise _exists(path)


def check_apart(*paths: Path | None) -> None:
    """Refuse to write two things into one file.

    Raises:
        UsageError: two of the paths are the same.
    """
    named = [path.absolute() for path in paths if path is not None]
    for path in named:
        if named.count(path) > 1:
            raise UsageError(f"{path.name} is named twice", hint="name different files")


def write_atomic(path: Path, data: bytes, *, force: bool = False, mode: int = 0o666) -> None:
    """Write a file atomically: under its name it is either complete or absent.

    mode: its permissions, before the process's umask.

    Raises:
        SteerError: the file exists and `force` is off, or writing fails.
    """
    check_writable(path, force=force)
    if follows():
        return
    with reported(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(mode & ~_umask())
            _put(temporary, path, force=force)
        finally:
            temporary.unlink(missing_ok=True)


def _put(temporary: Path, path: Path, *, force: bool) -> None:
    if force:
        temporary.replace(path)
        return
    try:
        # A link fails if the name is taken, so two writers cannot overwrite each other.
        os.link(temporary, path)
    except FileExistsError:
        raise _exists(path) from None
    except OSError:  # a file system without hard links
        if path.exists():
            raise _exists(path) from None
        temporary.replace(path)


@contextlib.contextmanager
def reported(path: Path, hint: str | None = None) -> Iterator[None]:
    """Turn an OSError about `path` into an error for the user.

    Raises:
        SteerError: in place of any OSError.
    """
    try:
        yield
    except OSError as error:
        raise SteerError(f"{path}: {error.strerror or error}", hint=hint) from error


def read_bytes(path: Path, *, limit: int, follow_links: bool = True) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    follow_links: off for a file in a folder that somebody else can write, where a link could point
    at any file of the reader.

    Raises:
        SteerError: as `open_regular`, or the file is longer than `limit` bytes.
    """
    with open_regular(path, follow_links=follow_links) as file, reported(path):
        return _read_bounded(file, path, limit, size=os.fstat(file.fileno()).st_size)


def read_typed(path: Path, *, limit: int) -> bytes:
    """The content of a file that the user typed on the command line.

    Besides regular files it reads the streams that the shell opens for this process: `-` and
    `/dev/stdin`, and `/dev/fd/N`, which is what `<(...)` becomes. Never call it with a path from a
    file or a folder: a stream that a stranger names may never end.

    Raises:
        SteerError: as `read_bytes`.
    """
    if str(path) == "-":
        with reported(Path("stdin")):
            return _read_bounded(sys.stdin.buffer, "stdin", limit)
    if _STREAM.fullmatch(str(path)) is None:
        return read_bytes(path, limit=limit)
    with reported(path), path.open("rb") as file:
        return _read_bounded(file, path, limit)


def read_cached(path: Path, *, limit: int) -> bytes | None:
    """The content of a file in the cache folder; None if it is missing or cannot be trusted.

    A trusted file belongs to this user (or root), is not a link, and cannot be written by anybody
    else, like those of `write_cached`.

    Raises:
        SteerError: the file has more than `limit` bytes, or the disk fails.
    """
    try:
        status = path.lstat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode) or not _is_private(status):
        return None
    return read_bytes(path, limit=limit, follow_links=False)


def write_cached(path: Path, data: bytes) -> None:
    """Write a file of the cache folder, atomically, which only this user can read and write.

    Raises:
        SteerError: writing fails.
    """
    with reported(path.parent):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(path, data, force=True, mode=0o600)


def append_cached(path: Path, data: bytes) -> None:
    """Append to a file of the cache folder, which only this user can read and write.

    Raises:
        SteerError: writing fails.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    with reported(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = open_descriptor(path, flags, follow_links=False, mode=0o600)
        with os.fdopen(descriptor, "ab") as file:
            file.write(data)


def write_end(path: Path, data: bytes, start: int) -> None:
    """Write `data` from byte `start` of a file on, and end the file there. If it does not fit, the
    file ends at `start`, so that it never holds a part of `data`.

    Raises:
        SteerError: writing fails.
    """
    with reported(path):
        descriptor = open_descriptor(path, os.O_WRONLY | os.O_CREAT, follow_links=False)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            file.truncate(start)
            file.seek(start)
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError:
                file.truncate(start)
                raise


def open_regular(path: Path, *, follow_links: bool = True) -> BinaryIO:
    """Open a regular file for reading in parts; opening never waits.

    Raises:
        SteerError: it cannot be opened, or is a folder, a pipe, a device, a socket or (unless
            `follow_links`) a link.
    """
    return os.fdopen(open_descriptor(path, os.O_RDONLY, follow_links=follow_links), "rb")


def open_descriptor(path: Path, flags: int, *, follow_links: bool = True, mode: int = 0o666) -> int:
    """Like `open_regular`, but with flags of `os.open`; returns a descriptor, which the caller
    closes.

    mode: the permissions of a new file, before the process's umask.

    Raises:
        SteerError: as `open_regular`.
    """
    with reported(path):
        # Checked before, since opening a device can have effects, and after, since the name may
        # mean another file by then.
        with contextlib.suppress(FileNotFoundError):
            _check_regular(path, path.stat() if follow_links else path.lstat())
        safe = _NO_WAITING if follow_links else _NO_WAITING | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(path, flags | safe, mode)
        try:
            _check_regular(path, os.fstat(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


#: Streams that the shell opened for this process, by the names that it gives them.
_STREAM = re.compile(r"/dev/stdin|/(?:dev|proc/self)/fd/\d+")
_NO_WAITING = (
    getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a link",
}
_PIECE = 1 << 20


def _check_regular(path: Path, status: os.stat_result) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise SteerError(
            f"{path} is {_KINDS.get(kind, 'something else')}, not a file",
            hint="pipe its content in where a command reads `-`, or name a file"
            if kind == stat.S_IFIFO
            else None,
        )


def _is_private(status: os.stat_result) -> bool:
    """Whether a file belongs to this user or root, and nobody else can write it."""
    if not hasattr(os, "geteuid"):
        return True
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & 0o022


def _read_bounded(file: BinaryIO, subject: object, limit: int, *, size: int = 0) -> bytes:
    """The rest of a stream, if it has at most `limit` bytes.

    size: the expected size, if known; a growing file may have more by now.
    """
    pieces: list[bytes] = []
    allowed = 0 if size > limit else limit + 1
    # A file of known size is read in one piece, which needs no copy.
    while allowed and (piece := file.read(min(allowed, max(size + 1, _PIECE)))):
        pieces.append(piece)
        allowed -= len(piece)
    if not allowed:
        raise SteerError(f"{subject} has more than {limit:,} bytes, the most that steer reads")
    return b"".join(pieces)


def cache_folder(name: str) -> Path:
    """A folder for reproducible results, under the user's cache folder."""
    folder = os.environ.get("XDG_CACHE_HOME")
    return (Path(folder) if folder else Path("~/.cache").expanduser()) / "steer" / name


def at_home(path: str) -> Path:
    """A path that may begin with `~` or `~SOMEBODY`.

    Raises:
        UsageError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UsageError(f"{path!r} begins with the name of an unknown user") from None


def safe_name(text: str) -> bool:
    """Whether `text` can be a file's name: no folders, no leading dot, nothing odd."""
    return _NAME.fullmatch(text) is not None


def shown(text: object) -> str:
    """`text` with control characters replaced, which could move the cursor, colour the screen or
    reverse the writing, and with undecodable bytes of file names replaced."""
    return _CONTROL.sub("\ufffd", str(text))


def escaped(json: str) -> str:
    """JSON with the same meaning, with the characters that `shown` replaces as escapes."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", json)


def _exists(path: Path) -> SteerError:
    return SteerError(f"{path} exists", hint="pass --force to replace it")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
