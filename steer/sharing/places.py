"""What every place of vectors can do, and how its failures are told."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from steer.base.errors import SteerError
from steer.base.files import safe_name
from steer.sharing.address import SUFFIX, Address
from steer.vectors import store
from steer.vectors.metadata import Metadata

#: Of a card or an index, in bytes.
TEXT_LIMIT = 1_000_000
_START = 1 << 16
#: So often a file may be replaced while it is read.
_TRIES = 5


class UnreachableError(SteerError):
    """A place that does not answer; what was fetched from it earlier may do."""


class MissingError(SteerError):
    """A place that answers that it has no such thing."""


class ChangedError(SteerError):
    """Somebody else has written meanwhile; trying again may do."""


class Place(Protocol):
    """A folder of vectors somewhere. Names are those of files directly in it.

    revision: the commit that is read, where the place has commits.
    """

    address: Address

    @property
    def revision(self) -> str | None: ...

    def files(self) -> dict[str, int]:
        """Names and sizes in bytes; of a folder that is not there yet, none."""
        ...

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Part of a file; no more than that is fetched."""
        ...

    def write(
        self, files: dict[str, bytes], message: str, *, replace: frozenset[str]
    ) -> str | None:
        """Write files, each whole or not at all, over no other ones than those in `replace`.

        Returns the new revision. Raises ChangedError where such a one appeared meanwhile.
        """
        ...


@dataclass(frozen=True, slots=True)
class Listed:
    """A vector file of a place, as its header tells it. error: why it cannot be read."""

    name: str
    n_bytes: int
    metadata: Metadata | None
    error: str = ""


def listing(place: Place) -> list[Listed]:
    """The vectors of a place; of one that is not there yet, none. Reads headers only."""
    return [_listed(place, file, size) for file, size in vector_files(place.files()).items()]


def vector_files(files: dict[str, int]) -> dict[str, int]:
    """Those whose name can be one of a vector, without the suffix."""
    stems = {
        name.removesuffix(SUFFIX): size for name, size in files.items() if name.endswith(SUFFIX)
    }
    return {stem: stems[stem] for stem in sorted(stems) if safe_name(stem)}


def header(place: Place, name: str, size: int) -> Metadata:
    """What a vector file of a place says of itself; its numbers are not fetched.

    Raises:
        VectorError: it is no vector file.
    """
    subject = f"{place.address}/{name}{SUFFIX}"
    start = place.read(name + SUFFIX, 0, min(size, _START))
    needed = store.header_end(start, subject)
    if needed > len(start) and size > len(start):
        start += place.read(name + SUFFIX, len(start), min(size, needed))
    return store.parse_header(start, size, subject)


def contents(place: Place, file: str, limit: int) -> bytes | None:
    """A whole file, or None where there is none.

    Raises:
        SteerError: it is longer than `limit`, or arrives shorter than it is.
    """
    for _ in range(_TRIES):
        size = place.files().get(file)
        if size is None:
            return None
        if size > limit:
            raise SteerError(f"{place.address}/{file} has {size:,} bytes, more than {limit:,}")
        # One byte more, which is there if a longer file has taken the place meanwhile.
        data = place.read(file, 0, size + 1) if size else b""
        if len(data) == size:
            return data
    raise SteerError(f"{place.address}/{file} did not arrive whole", hint="try again")


@contextlib.contextmanager
def reaching(subject: object) -> Iterator[None]:
    """Turn what a library raises while it reaches a place into an error for the user.

    Libraries have errors of their own for each thing that can be wrong, and no common root.

    Raises:
        MissingError: there is no such thing. UnreachableError: it does not answer. SteerError: not
        allowed.
    """
    # What is retried and fails is told once, below.
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    try:
        yield
    except SteerError:
        raise
    except ImportError as error:
        raise SteerError(f"{subject}: {error}") from None
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        told = getattr(error, "strerror", None) or str(error).strip()
        reason = next(iter(told.splitlines()), "") or type(error).__name__
        if status in (401, 403) or isinstance(error, PermissionError):
            raise SteerError(
                f"{subject}: not allowed: {reason}",
                hint="log in as the place wants it (the hub: `hf auth login`), or ask its owner",
            ) from error
        if status == 404 or isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise MissingError(f"{subject}: there is no such thing: {reason}") from error
        raise UnreachableError(f"{subject} cannot be reached: {reason}") from error


def _listed(place: Place, name: str, size: int) -> Listed:
    try:
        return Listed(name, size, header(place, name, size))
    except UnreachableError:
        raise
    except SteerError as error:
        return Listed(name, size, None, str(error))
