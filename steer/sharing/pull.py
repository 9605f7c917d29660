"""Pull a vector into a folder: check it, refuse to replace another vector, record its origin."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from steer.base.errors import SteerError, VectorError
from steer.base.files import read_bytes, reported, shown, write_atomic
from steer.sharing.address import SUFFIX, Address
from steer.sharing.fetch import read
from steer.sharing.places import TEXT_LIMIT, MissingError, UnreachableError
from steer.vectors import lock, signing, store

CARD = ".md"
#: Marks a card or README that `push` wrote, which may therefore be replaced.
MADE = "<!-- made by steer push -->"


@dataclass(frozen=True, slots=True)
class PulledVector:
    """A pulled vector. changed: it is new in this folder. stale: it came from the cache."""

    path: Path
    origin: lock.Origin
    changed: bool
    stale: bool
    card: Path | None = None
    signature: Path | None = None

    @property
    def signed_by(self) -> str | None:
        """The fingerprint of the key that signed it, where it is known."""
        return None if self.origin.signer is None else signing.fingerprint(self.origin.signer)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the keys of `steer pull --json`."""
        return {
            "path": str(self.path),
            "url": self.origin.url,
            "revision": self.origin.revision,
            "sha256": self.origin.sha256,
            "changed": self.changed,
            "signed": self.signature is not None,
            "signed_by": self.signed_by,
        }


def pull(
    address: Address, folder: Path, *, public_key: Path | None = None, force: bool = False
) -> PulledVector:
    """Fetch a vector, its card and its signature.

    public_key: the vector must be signed with this key. The lock file records it, and later pulls
    require it too.

    Raises:
        SteerError: the vector cannot be fetched, lacks the required signature, or another vector
            of this name is here and `force` is off.
        VectorError: the file is damaged, differs from what the same commit gave before, or is not
            signed by the signer of the one before it.
    """
    assert address.name is not None
    data, fetched = read(address)
    digest = store.from_bytes(data, str(address)).metadata.sha256
    # The card and the signature have to be those of the same commit.
    beside = replace(address, revision=fetched.revision) if fetched.revision else address
    card, signature = _card(beside), fetch_signature(beside)
    before = lock.origins(folder).get(address.name)
    origin = lock.Origin(url=str(address), sha256=digest, revision=fetched.revision)
    _check_commit(origin, before, folder)
    signature, signer = _signed(address, data, signature, before, digest, public_key, folder)
    text = None if signature is None else signing.to_text(signature)
    origin = msgspec.structs.replace(origin, signature=text, signer=signer)

    path = folder / (address.name + SUFFIX)
    changed = _check_place(path, digest, force=force)
    with reported(folder):
        folder.mkdir(parents=True, exist_ok=True)
    # The signature first and the lock last, so that a reader in between never fails.
    signature_file = path.with_name(path.name + signing.SIGNATURE)
    if text is not None:
        write_atomic(signature_file, f"{text}\n".encode(), force=True)
    elif changed:
        signature_file.unlink(missing_ok=True)  # it belongs to the vector that is replaced
    if changed:
        try:
            write_atomic(path, data, force=force)
        except SteerError:  # another process may have been faster
            if _check_place(path, digest, force=force):
                raise
            changed = False
    card_file = _put_card(card, path.with_suffix(CARD))
    lock.keep(folder, address.name, origin)
    return PulledVector(
        path, origin, changed, fetched.stale, card_file, signature_file if text else None
    )


def _check_commit(origin: lock.Origin, before: lock.Origin | None, folder: Path) -> None:
    """Refuse a vector that differs from the one that the same commit gave before."""
    if before is None or origin.revision is None or origin.sha256 == before.sha256:
        return
    if (before.url, before.revision) == (origin.url, origin.revision):
        raise VectorError(
            f"{origin.url} now gives another vector for the same commit"
            f" {origin.revision}: {origin.sha256[:12]}..., not {before.sha256[:12]}...",
            hint=f"ask its owner; if the change is right, remove the entry from"
            f" {folder / lock.NAME}",
        )


def _signed(
    address: Address,
    data: bytes,
    signature: bytes | None,
    before: lock.Origin | None,
    digest: str,
    public_key: Path | None,
    folder: Path,
) -> tuple[bytes | None, str | None]:
    """The signature to store, and its public key where that is known.

    Raises:
        SteerError: the vector is not signed with the key that the user names.
        VectorError: the vector before it was signed, and this one is not signed with that key.
    """
    if public_key is not None:
        key = signing.key_text(public_key)
        if signature is None:
            raise SteerError(
                f"{address} is not signed: there is no {address.name}{SUFFIX}{signing.SIGNATURE}",
                hint="pull it without --public-key, or ask its owner to sign it",
            )
        signing.check_bytes(data, signature, key, subject=str(address), public_key=public_key)
        return signature, key
    if before is None or before.signature is None:
        return signature, None
    if before.sha256 == digest:
        # The same vector: a known signature is not dropped, and not replaced by an unknown key's.
        if signature is None or before.signer is not None:
            return signing.parse(before.signature.encode(), str(folder / lock.NAME)), before.signer
        return signature, None
    lock.check_successor(
        before,
        data,
        signature,
        subject=str(address),
        hint="get the present signer's public key from them and pass --public-key; or remove the"
        f" entry {address.name!r} from {folder / lock.NAME}",
    )
    return signature, before.signer


def _check_place(path: Path, digest: str, *, force: bool) -> bool:
    """Whether the vector has to be written.

    Raises:
        SteerError: another vector has its name, and `force` is off.
    """
    with reported(path):
        if not path.exists():
            return True
    try:
        same = store.read(path).metadata.sha256 == digest
    except SteerError:
        same = False
    if not same and not force:
        raise SteerError(
            f"{path} exists already and is another vector",
            hint="pass --force to replace it, or -o FOLDER to keep both",
        )
    return not same


def _card(address: Address) -> str | None:
    """The card, with control characters replaced."""
    try:
        data, _ = read(address, CARD, TEXT_LIMIT)
        return shown(data.decode())
    except (MissingError, UnreachableError, UnicodeDecodeError):
        return None


def fetch_signature(address: Address) -> bytes | None:
    """The signature beside a vector at an address, 64 bytes; None without one.

    Raises:
        SteerError: the file holds something else.
    """
    suffix = SUFFIX + signing.SIGNATURE
    try:
        data, _ = read(address, suffix, signing.SIGNATURE_LIMIT)
    except (MissingError, UnreachableError):
        return None
    return signing.parse(data, f"{address}{suffix}")


def _put_card(text: str | None, path: Path) -> Path | None:
    """Write a card, unless somebody has written one by hand."""
    if text is None:
        return None
    if os.path.lexists(path) and not _is_made(path):
        return None
    write_atomic(path, text.encode(), force=True)
    return path


def _is_made(card: Path) -> bool:
    with suppress(SteerError):
        return MADE.encode() in read_bytes(card, limit=TEXT_LIMIT)
    return False
