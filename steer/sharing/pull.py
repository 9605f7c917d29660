"""From a place into a folder of vectors: checked, over no other vector, with its origin kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from steer.base.errors import SteerError, VectorError
from steer.base.files import reported, shown, write_atomic
from steer.sharing import lock
from steer.sharing.address import SUFFIX, Address
from steer.sharing.fetch import fetch, read
from steer.sharing.places import TEXT_LIMIT, MissingError, UnreachableError
from steer.sharing.signing import SIGNATURE, SIGNATURE_LIMIT
from steer.vectors import store

CARD = ".md"
#: Stands in what `push` writes, and so may be replaced.
MADE = "<!-- made by steer push -->"


@dataclass(frozen=True, slots=True)
class Pulled:
    """A vector that came. changed: whether it was not here yet. stale: it is from the cache."""

    path: Path
    origin: lock.Origin
    changed: bool
    stale: bool
    card: Path | None = None
    signature: Path | None = None


def pull(address: Address, folder: Path, *, force: bool = False) -> Pulled:
    """Fetch a vector, its card and its signature.

    Raises:
        SteerError: it cannot be had, or another vector of this name is here and `force` is off.
        VectorError: what came is damaged, or another one than the same commit gave before.
    """
    assert address.name is not None
    data, fetched = read(address)
    digest = store.from_bytes(data, str(address)).metadata.sha256
    origin = lock.Origin(url=str(address), sha256=digest, revision=fetched.revision)
    before = lock.origins(folder).get(address.name)
    if (
        origin.revision
        and before
        and before == msgspec.structs.replace(origin, sha256=before.sha256) != origin
    ):
        raise VectorError(
            f"{address} gives another vector than it did for the same commit"
            f" {origin.revision}: {digest[:12]}..., not {before.sha256[:12]}...",
            hint=f"ask its owner; remove it from {folder / lock.NAME} if that is right",
        )
    with reported(folder):
        folder.mkdir(parents=True, exist_ok=True)
    path = folder / (address.name + SUFFIX)
    changed = _put(path, data, digest, force=force)
    # What belongs to a vector is that of the same commit.
    beside = replace(address, revision=fetched.revision) if fetched.revision else address
    card = _text_beside(beside, path.with_suffix(CARD))
    signature = _beside(beside, path.with_name(path.name + SIGNATURE), changed)
    lock.keep(folder, address.name, origin)
    return Pulled(path, origin, changed, fetched.stale, card, signature)


def _put(path: Path, data: bytes, digest: str, *, force: bool) -> bool:
    """Whether something was written; another vector is kept."""
    try:
        write_atomic(path, data)
        return True
    except SteerError:
        if not path.is_file():
            raise
    try:
        same = store.read(path).metadata.sha256 == digest
    except VectorError:
        same = False
    if same:
        return False
    if not force:
        raise SteerError(
            f"{path} is here already, and is another vector",
            hint="pass --force to replace it, or -o FOLDER to keep both",
        )
    write_atomic(path, data, force=True)
    return True


def _text_beside(address: Address, path: Path) -> Path | None:
    """The card, as text that no terminal obeys; one that a hand has written is kept."""
    try:
        text = fetch(address, CARD, TEXT_LIMIT).path.read_bytes().decode()
    except (MissingError, UnreachableError, UnicodeDecodeError):
        return None
    if path.exists() and MADE not in path.read_text(errors="replace"):
        return None
    write_atomic(path, shown(text).encode(), force=True)
    return path


def _beside(address: Address, path: Path, changed: bool) -> Path | None:
    try:
        data = fetch(address, SUFFIX + SIGNATURE, SIGNATURE_LIMIT).path.read_bytes()
    except (MissingError, UnreachableError):
        if changed:
            path.unlink(missing_ok=True)  # of the vector that was replaced
        return None
    write_atomic(path, data, force=True)
    return path
