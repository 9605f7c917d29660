"""Open the place that an address names: a repository of the hub, or a folder."""

from __future__ import annotations

from steer.sharing.address import HUB, Address
from steer.sharing.hub import Repository
from steer.sharing.places import Place
from steer.sharing.remote import Folder


def open_place(address: Address, *, private: bool = False) -> Place:
    """The place of an address. private: whether a repository that has to be created is private.

    Raises:
        SteerError: no library for its protocol, or the place does not answer.
    """
    if address.protocol == HUB:
        return Repository(address, private=private)
    return Folder(address)
