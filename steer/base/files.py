"""Files that appear whole or not at all, and names that are safe to use and to show."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from steer.base.errors import SteerError, UsageError
from steer.base.processes import follows

_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


def check_writable(path: Path, *, force: bool) -> None:
    """Find out before the work whether `path` can be written after it.

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
        if path.is_dir():
            raise SteerError(f"{path} is a folder", hint="name a file")
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
            raise UsageError(f"{path.name} is named twice", hint="write each to a file of its own")


def write_atomic(path: Path, data: bytes, *, force: bool = False) -> None:
    """Write a file that is whole under its name at every moment, or not there.

    Raises:
        SteerError: it exists and `force` is off, or the disk does not take it.
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
            temporary.chmod(0o666 & ~_umask())
            _put(temporary, path, force=force)
        finally:
            temporary.unlink(missing_ok=True)


def _put(temporary: Path, path: Path, *, force: bool) -> None:
    if force:
        temporary.replace(path)
        return
    try:
        # A link fails where the name is taken, so two writers cannot overwrite each other.
        os.link(temporary, path)
    except FileExistsError:
        raise _exists(path) from None
    except OSError:  # a file system without hard links
        if path.exists():
            raise _exists(path) from None
        temporary.replace(path)


@contextlib.contextmanager
def reported(path: Path, hint: str | None = None) -> Iterator[None]:
    """Turn the operating system's refusal about `path` into an error for the user.

    Raises:
        SteerError: in place of any OSError.
    """
    try:
        yield
    except OSError as error:
        raise SteerError(f"{path}: {error.strerror or error}", hint=hint) from error


def read_bytes(path: Path, *, limit: int) -> bytes:
    """The whole file.

    Raises:
        SteerError: it cannot be read, or is longer than `limit` bytes.
    """
    with reported(path):
        size = path.stat().st_size
        if size > limit:
            raise SteerError(f"{path} has {size:,} bytes, more than {limit:,}")
        return path.read_bytes()


def cache_folder(name: str) -> Path:
    """Where results may lie that can be made again, under the user's own cache folder."""
    folder = os.environ.get("XDG_CACHE_HOME")
    return (Path(folder) if folder else Path("~/.cache").expanduser()) / "steer" / name


def at_home(path: str) -> Path:
    """A path that may begin with `~` or `~SOMEBODY`.

    Raises:
        UsageError: that is nobody here.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UsageError(f"{path!r} begins with the name of nobody here") from None


def safe_name(text: str) -> bool:
    """Whether `text` can be a file's name: no folders, no leading dot, nothing odd."""
    return _NAME.fullmatch(text) is not None


def shown(text: object) -> str:
    """`text` without what could move the cursor, colour the screen or turn the writing round, and
    without bytes of names that are no text."""
    return _CONTROL.sub("\ufffd", str(text))


def escaped(json: str) -> str:
    """JSON with the same meaning, and none of what `shown` takes out."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", json)


def _exists(path: Path) -> SteerError:
    return SteerError(f"{path} exists", hint="pass --force to replace it")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
