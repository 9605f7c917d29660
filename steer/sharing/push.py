"""Push vectors to a place, each with its card, and update the README that lists them."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steer.base.errors import SteerError
from steer.sharing.address import HUB, SUFFIX, Address
from steer.sharing.card import README, card, index
from steer.sharing.evidence import Evidence
from steer.sharing.opening import open_place
from steer.sharing.places import (
    TEXT_LIMIT,
    ChangedError,
    Place,
    contents,
    header,
    listing,
    vector_files,
)
from steer.sharing.pull import CARD, MADE
from steer.vectors import signing, store
from steer.vectors.metadata import Metadata

#: How often another writer may come first before this gives up.
_TRIES = 30


@dataclass(frozen=True, slots=True)
class VectorUpload:
    """A vector to push: its checked bytes, and its signature of 64 bytes where it has one."""

    name: str
    data: bytes
    metadata: Metadata
    signature: bytes | None = None


@dataclass(frozen=True, slots=True)
class PushResult:
    """The result of a push.

    vectors: the hash of each, by name. changed: names of the vectors that the place did not have
    yet. own_readme: the place has a README that somebody wrote by hand; it was left alone.
    """

    vectors: Mapping[str, str]
    revision: str | None
    changed: tuple[str, ...]
    own_readme: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the keys of `steer push --json`."""
        vectors = [
            {"name": name, "sha256": sha256, "changed": name in self.changed}
            for name, sha256 in self.vectors.items()
        ]
        return {"revision": self.revision, "vectors": vectors}


def prepare_upload(path: Path) -> VectorUpload:
    """Read a vector file of this machine and check it in full.

    Raises:
        SteerError: the file is damaged, is not the signed vector that was pulled, has a broken
            signature file, or its name is not allowed elsewhere.
    """
    name = path.name.removesuffix(SUFFIX)
    if vector_files({path.name: 0}) != {name: 0}:
        raise SteerError(
            f"{path.name!r} is not a valid name elsewhere", hint="use letters and digits"
        )
    vector, data = store.read_with_bytes(path)
    # A link in a folder from elsewhere could point at a private file.
    signature = signing.read_beside(path, follow_links=False)
    return VectorUpload(name, data, vector.metadata, signature)


def push(
    address: Address,
    uploads: Sequence[VectorUpload],
    evidence: Mapping[str, Evidence],
    *,
    force: bool = False,
    private: bool = False,
) -> PushResult:
    """Write vectors, their cards and the README. Concurrent pushes lose nothing.

    evidence: measurements, by the hash of the vector.

    Raises:
        SteerError: the place cannot be written, or has another vector of this name and `force` is
            off.
    """
    for attempt in range(_TRIES):
        place = open_place(address, private=private)
        try:
            return _push(place, uploads, evidence, force=force)
        except ChangedError:
            if attempt == _TRIES - 1:
                raise
            time.sleep(random.uniform(0, 0.05 * (attempt + 1)))
    raise AssertionError("unreachable")


def _push(
    place: Place, uploads: Sequence[VectorUpload], evidence: Mapping[str, Evidence], *, force: bool
) -> PushResult:
    present = vector_files(place.files())
    changed = [upload for upload in uploads if _differs(place, upload, present, force=force)]
    hashes = {upload.name: upload.metadata.sha256 for upload in uploads}
    where = str(replace(place.address, revision=None))
    files: dict[str, bytes] = {}
    texts: dict[str, bytes] = {}
    for upload in uploads:
        name = upload.name
        if upload in changed:
            files[name + SUFFIX] = upload.data
        if upload.signature is not None:
            text = f"{signing.to_text(upload.signature)}\n"
            texts[name + SUFFIX + signing.SIGNATURE] = text.encode()
        results = evidence.get(upload.metadata.sha256)
        # A push without evidence does not remove the evidence from an earlier card.
        if results is not None or upload in changed or name + CARD not in place.files():
            texts[name + CARD] = card(name, upload.metadata, where, results).encode()
    replaced = frozenset(texts) | frozenset(files if force else ()) | {README}
    names = ", ".join(upload.name for upload in uploads)
    own = _own_readme(place)
    if place.address.protocol == HUB:  # one commit for all, or none
        if not own:
            texts |= _index(place, uploads, texts, where)
        revision = place.write(files | texts, f"Push {names}", replace=replaced)
        return PushResult(hashes, revision, tuple(upload.name for upload in changed), own)
    place.write(files | texts, "", replace=replaced)
    if not own:
        _write_index(place, where)
    return PushResult(hashes, None, tuple(upload.name for upload in changed), own)


def _differs(
    place: Place, upload: VectorUpload, present: Mapping[str, int], *, force: bool
) -> bool:
    if upload.name not in present:
        return True
    try:
        present_hash = header(place, upload.name, present[upload.name]).sha256
    except SteerError:
        present_hash = ""
    # The header gives the hash; the length shows that the file is complete.
    if present_hash == upload.metadata.sha256 and present[upload.name] == len(upload.data):
        return False
    if not force:
        raise SteerError(
            f"{place.address} has another vector named {upload.name}",
            hint="pass --force to replace it, or push it under another name",
        )
    if upload.signature is None and upload.name + SUFFIX + signing.SIGNATURE in place.files():
        raise SteerError(
            f"{place.address} has a signed vector named {upload.name}, and this one is not signed",
            hint="sign it first (steer sign), or push it under another name",
        )
    return True


def _own_readme(place: Place) -> bool:
    """Whether the place has a README that somebody wrote by hand."""
    if README not in place.files():
        return False
    text = contents(place, README, TEXT_LIMIT) or b""
    return MADE.encode() not in text and bool(text.strip())


def _index(
    place: Place, uploads: Sequence[VectorUpload], cards: Mapping[str, bytes], where: str
) -> dict[str, bytes]:
    """The README for the vectors that the place has together with the uploads."""
    rows = {entry.name: entry.metadata for entry in listing(place) if entry.metadata is not None}
    rows |= {upload.name: upload.metadata for upload in uploads}
    rows = dict(sorted(rows.items()))
    sole = None
    if len(rows) == 1:
        file = next(iter(rows)) + CARD
        contents_of_card = cards.get(file) or contents(place, file, TEXT_LIMIT)
        sole = contents_of_card.decode(errors="replace") if contents_of_card else None
    return {README: index(rows, where, sole).encode()}


def _write_index(place: Place, where: str) -> None:
    """Write the README to a place without commits, until it lists all vectors that are there.

    The last writer looks after all others have put their vectors, so the README ends up right.
    """
    written = None
    for _ in range(_TRIES):
        expected = _index(place, (), {}, where)
        if expected == written:
            return
        place.write(expected, "", replace=frozenset(expected))
        written = expected
