"""Which kind of place an address means."""

from __future__ import annotations

from steer.sharing.address import HUB, Address
from steer.sharing.hub import Repository
from steer.sharing.places import Place
from steer.sharing.remote import Folder


def open_place(address: Address, *, private: bool = False) -> Place:
    """The place of an address. private: of a repository, if it has to be made.

    Raises:
        SteerError: nothing here reaches it, or it does not answer.
    """
    if address.protocol == HUB:
        return Repository(address, private=private)
    return Folder(address)
