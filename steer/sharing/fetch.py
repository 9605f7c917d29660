"""Fetch a vector from an address: its size is limited, it is cached, and checked like any file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from steer.base.files import cache_folder, read_bytes, read_cached, write_cached
from steer.base.urls import is_url
from steer.sharing import hub
from steer.sharing.address import HUB, SUFFIX, Address, parse_vector
from steer.sharing.opening import open_place
from steer.sharing.places import MissingError, UnreachableError, contents
from steer.vectors import store


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A local copy of a file at an address. stale: the place did not answer, so this is the copy
    from the last time that it did.
    """

    path: Path
    revision: str | None = None
    stale: bool = False


def find(reference: str, note: Callable[[str], None] = lambda text: None) -> Path:
    """The file of a reference, like `store.find`; vectors at addresses are fetched.

    note: called with the origin of a fetched vector, and if the current folder has a file of the
    same name, which the reference does not mean.

    Raises:
        SteerError: there is no such vector, or its place does not answer.
    """
    if not is_url(reference):
        path, local = store.find(reference), Path(f"{reference}{SUFFIX}")
        if local.parent == Path() and path.parent not in (Path(), local.parent) and local.is_file():
            note(f"{reference} is {path}; for {local} write ./{reference}")
        return path
    address = parse_vector(reference)
    fetched = fetch(address)
    at = f" at {fetched.revision}" if fetched.revision else ""
    note(
        f"{address}{at}" + (", from the cache: the place does not answer" if fetched.stale else "")
    )
    return fetched.path


def fetch(address: Address, suffix: str = SUFFIX, limit: int = store.MAX_BYTES) -> FetchedFile:
    """Fetch a file of a vector: the vector itself, its card or its signature, by `suffix`.

    Raises:
        MissingError: the place has no such file.
        SteerError: the place cannot be reached, or the file has more than `limit` bytes.
    """
    file = f"{address.name}{suffix}"
    if address.protocol == HUB:
        return FetchedFile(*hub.cached(address, file, limit))
    kept = _kept(address, file)
    try:
        data = contents(open_place(address), file, limit)
    except UnreachableError:
        if read_cached(kept, limit=limit) is None:
            raise
        return FetchedFile(kept, stale=True)
    if data is None:
        raise MissingError(
            f"there is no {file} in {_folder(address)}", hint=f"see `steer list {_folder(address)}`"
        )
    if suffix == SUFFIX:
        store.from_bytes(data, str(address))  # raises: a damaged file is not cached
    write_cached(kept, data)
    return FetchedFile(kept)


def read(
    address: Address, suffix: str = SUFFIX, limit: int = store.MAX_BYTES
) -> tuple[bytes, FetchedFile]:
    """The contents of the file that `fetch` gets, and where its copy is."""
    fetched = fetch(address, suffix, limit)
    return read_bytes(fetched.path, limit=limit), fetched


def _folder(address: Address) -> str:
    return str(address).rpartition("/")[0] or "."


def _kept(address: Address, file: str) -> Path:
    key = hashlib.sha256(address.place.encode()).hexdigest()[:32]
    return cache_folder("vectors") / key / file
