"""Vectors to a place, each with its card, and the index of all that are there."""

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

#: So often others may come first before this gives up.
_TRIES = 30


@dataclass(frozen=True, slots=True)
class Parcel:
    """A vector to push: its bytes, which were checked, and its signature where it has one.

    signature: 64 bytes.
    """

    name: str
    data: bytes
    metadata: Metadata
    signature: bytes | None = None


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did.

    vectors: the hash of each, by name. changed: the names that the place did not have yet.
    own_readme: that there is a README which is not ours, and was left as it is.
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


def parcel(path: Path) -> Parcel:
    """A vector file of this machine, checked in full.

    Raises:
        SteerError: it is damaged, is not the signed vector that was pulled, has something else than
            a signature beside it, or its name cannot be one elsewhere.
    """
    name = path.name.removesuffix(SUFFIX)
    if vector_files({path.name: 0}) != {name: 0}:
        raise SteerError(f"{path.name!r} cannot be a name elsewhere", hint="use letters and digits")
    vector, data = store.read_with_bytes(path)
    # Nothing is published that a link in a folder from elsewhere points at.
    signature = signing.read_beside(path, follow_links=False)
    return Parcel(name, data, vector.metadata, signature)


def push(
    address: Address,
    parcels: Sequence[Parcel],
    evidence: Mapping[str, Evidence],
    *,
    force: bool = False,
    private: bool = False,
) -> Pushed:
    """Write vectors, cards and index. Others may do so at the same time: nothing is lost.

    evidence: what was measured, by the hash of the vector.

    Raises:
        SteerError: the place does not take it, or has another vector of this name and not `force`.
    """
    for tried in range(_TRIES):
        place = open_place(address, private=private)
        try:
            return _push(place, parcels, evidence, force=force)
        except ChangedError:
            if tried == _TRIES - 1:
                raise
            time.sleep(random.uniform(0, 0.05 * (tried + 1)))
    raise AssertionError("unreachable")


def _push(
    place: Place, parcels: Sequence[Parcel], evidence: Mapping[str, Evidence], *, force: bool
) -> Pushed:
    present = vector_files(place.files())
    changed = [one for one in parcels if _differs(place, one, present, force=force)]
    hashes = {each.name: each.metadata.sha256 for each in parcels}
    where = str(replace(place.address, revision=None))
    files: dict[str, bytes] = {}
    texts: dict[str, bytes] = {}
    for one in parcels:
        if one in changed:
            files[one.name + SUFFIX] = one.data
        if one.signature is not None:
            text = f"{signing.to_text(one.signature)}\n"
            texts[one.name + SUFFIX + signing.SIGNATURE] = text.encode()
        told = evidence.get(one.metadata.sha256)
        # What was measured once is not taken back by a push that says nothing of it.
        if told is not None or one in changed or one.name + CARD not in place.files():
            texts[one.name + CARD] = card(one.name, one.metadata, where, told).encode()
    replaced = frozenset(texts) | frozenset(files if force else ()) | {README}
    names = ", ".join(one.name for one in parcels)
    own = _own_readme(place)
    if place.address.protocol == HUB:  # one commit for all, or none
        if not own:
            texts |= _index(place, parcels, texts, where)
        revision = place.write(files | texts, f"Push {names}", replace=replaced)
        return Pushed(hashes, revision, tuple(each.name for each in changed), own)
    place.write(files | texts, "", replace=replaced)
    if not own:
        _write_index(place, where)
    return Pushed(hashes, None, tuple(each.name for each in changed), own)


def _differs(place: Place, one: Parcel, present: Mapping[str, int], *, force: bool) -> bool:
    if one.name not in present:
        return True
    try:
        there = header(place, one.name, present[one.name]).sha256
    except SteerError:
        there = ""
    # A header tells what the file should be; whether it is all there, its length has told.
    if there == one.metadata.sha256 and present[one.name] == len(one.data):
        return False
    if not force:
        raise SteerError(
            f"{place.address} has another vector named {one.name}",
            hint="pass --force to replace it, or push it under another name",
        )
    if one.signature is None and one.name + SUFFIX + signing.SIGNATURE in place.files():
        raise SteerError(
            f"{place.address} has a signed vector named {one.name}, and this one is not signed",
            hint="sign it first (steer sign), or push it under another name",
        )
    return True


def _own_readme(place: Place) -> bool:
    """Whether somebody has written a README by hand, which is theirs."""
    if README not in place.files():
        return False
    text = contents(place, README, TEXT_LIMIT) or b""
    return MADE.encode() not in text and bool(text.strip())


def _index(
    place: Place, parcels: Sequence[Parcel], cards: Mapping[str, bytes], where: str
) -> dict[str, bytes]:
    """The README as it will be right once the parcels are there."""
    rows = {one.name: one.metadata for one in listing(place) if one.metadata is not None}
    rows |= {one.name: one.metadata for one in parcels}
    rows = dict(sorted(rows.items()))
    sole = None
    if len(rows) == 1:
        file = next(iter(rows)) + CARD
        there = cards.get(file) or contents(place, file, TEXT_LIMIT)
        sole = there.decode(errors="replace") if there else None
    return {README: index(rows, where, sole).encode()}


def _write_index(place: Place, where: str) -> None:
    """Where files are written one by one: until the index is that of what is there.

    Who writes it last has looked after all others had put their vectors, so it ends up right.
    """
    written = None
    for _ in range(_TRIES):
        wanted = _index(place, (), {}, where)
        if wanted == written:
            return
        place.write(wanted, "", replace=frozenset(wanted))
        written = wanted
