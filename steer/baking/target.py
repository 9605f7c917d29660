"""Write a folder atomically: under its name it is complete, or absent. No torch."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from steer.base.errors import SteerError
from steer.base.files import reported

#: The file by which a baked folder is recognised.
REPORT = "bake_report.json"
#: AT_FDCWD, and RENAME_EXCHANGE of Linux, which is RENAME_SWAP of macOS.
_HERE, _EXCHANGE = -100, 2


@contextlib.contextmanager
def new_folder(path: Path, *, force: bool) -> Iterator[Path]:
    """A temporary folder that is moved to `path` if the block succeeds, and else deleted.

    Raises:
        SteerError: as in `check_folder`, or the disk is full.
    """
    check_folder(path, force=force)
    with reported(path):
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
        try:
            try:
                yield temporary
            except SafetensorError as error:  # Rust's own, of a disk that is full too
                raise SteerError(
                    f"{path}: {error}", hint="make room, and run the same again"
                ) from error
            _open_up(temporary)
            _put(temporary, path, force=force)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _put(temporary: Path, path: Path, *, force: bool) -> None:
    """Give a folder its final name. What it replaces then has the temporary name, or is gone."""
    check_folder(path, force=force)  # it may have come meanwhile
    if not path.exists() or not any(path.iterdir()):
        temporary.rename(path)
    elif not _exchange(temporary, path):
        old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".old"))
        path.rename(old / path.name)
        temporary.rename(path)
        shutil.rmtree(old)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two folders' names in one step, where the system and the file system can: a process
    that is killed between two renames would leave nothing under the final name."""
    names = os.fsencode(first), os.fsencode(second)
    library: Any = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    if hasattr(library, "renameat2"):  # Linux
        return bool(library.renameat2(_HERE, names[0], _HERE, names[1], _EXCHANGE) == 0)
    if hasattr(library, "renamex_np"):  # macOS
        return bool(library.renamex_np(*names, _EXCHANGE) == 0)
    return False


def check_folder(path: Path, *, force: bool) -> None:
    """Check before the work that a folder can be written.

    Raises:
        SteerError: its parent is missing or not writable, or the folder exists. `force` allows to
            replace a baked folder, but no other.
    """
    with reported(path):
        parent, exists = path.resolve().parent, path.exists()
    if not parent.is_dir():
        raise SteerError(f"the folder {parent} does not exist", hint=f"mkdir -p {parent}")
    if not os.access(parent, os.W_OK):
        raise SteerError(f"the folder {parent} is not writable")
    if not exists:
        return
    if not path.is_dir():
        raise SteerError(f"{path} is a file", hint="name a folder")
    if not any(path.iterdir()):
        return
    if not (path / REPORT).is_file():
        raise SteerError(
            f"{path} holds something else than a baked checkpoint", hint="name another folder"
        )
    if not force:
        raise SteerError(f"{path} exists", hint="pass --force to replace it")


def _open_up(folder: Path) -> None:
    """Give a temporary folder and its contents the default permissions."""
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
