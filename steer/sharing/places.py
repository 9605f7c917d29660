"""The interface of every place where vectors are shared, and its network errors."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from steer.base.errors import SteerError
from steer.base.files import safe_name
from steer.base.hub import OFFLINE
from steer.sharing.address import SUFFIX, Address
from steer.vectors import store
from steer.vectors.metadata import Metadata

#: The most bytes of a card or an index.
TEXT_LIMIT = 1_000_000
_START = 1 << 16
#: How often a file may be replaced while it is read before this gives up.
_TRIES = 5


class UnreachableError(SteerError):
    """The place does not answer; a cached copy may do."""


class MissingError(SteerError):
    """The place answers, but has no such file or folder."""


class ChangedError(SteerError):
    """Somebody else wrote to the place in the meantime; try again."""


class Place(Protocol):
    """A folder of vectors somewhere. Names are those of the files directly in it.

    revision: the commit that is read; None where the place has no commits.
    """

    address: Address

    @property
    def revision(self) -> str | None: ...

    def files(self) -> dict[str, int]:
        """Names and sizes in bytes; empty for a folder that does not exist yet."""
        ...

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` of a file; no others are fetched."""
        ...

    def write(
        self, files: dict[str, bytes], message: str, *, replace: frozenset[str]
    ) -> str | None:
        """Write files, each whole or not at all. Only those in `replace` may exist already.

        Returns the new revision. Raises ChangedError where another file has appeared meanwhile.
        """
        ...


@dataclass(frozen=True, slots=True)
class ListedVector:
    """A vector file of a place, by its header. error: why the header cannot be read."""

    name: str
    n_bytes: int
    metadata: Metadata | None
    error: str = ""


def listing(place: Place) -> list[ListedVector]:
    """The vectors of a place; empty if it does not exist yet. Reads headers only."""
    return [_listed(place, file, size) for file, size in vector_files(place.files()).items()]


def vector_files(files: dict[str, int]) -> dict[str, int]:
    """The files that can be vectors: names without the suffix, and sizes."""
    stems = {
        name.removesuffix(SUFFIX): size for name, size in files.items() if name.endswith(SUFFIX)
    }
    return {stem: stems[stem] for stem in sorted(stems) if safe_name(stem)}


def header(place: Place, name: str, size: int) -> Metadata:
    """The metadata of a vector file of a place; its tensors are not fetched.

    Raises:
        VectorError: the file is not a vector.
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
        SteerError: the file has more than `limit` bytes, or arrives incomplete.
    """
    for _ in range(_TRIES):
        size = place.files().get(file)
        if size is None:
            return None
        if size > limit:
            raise SteerError(f"{place.address}/{file} has {size:,} bytes, more than {limit:,}")
        # One byte more than its size: it arrives if a longer file has replaced this one meanwhile.
        data = place.read(file, 0, size + 1) if size else b""
        if len(data) == size:
            return data
    raise SteerError(f"{place.address}/{file} did not arrive whole", hint="try again")


@contextlib.contextmanager
def network_errors(subject: object) -> Iterator[None]:
    """Turn any error that a library raises while it reaches a place into one for the user.

    Each library has its own exceptions, without a common base class.

    Raises:
        MissingError: there is no such file or folder.
        UnreachableError: the place does not answer.
        SteerError: access is denied.
    """
    # Silences the library's own report of each retry; the failure is reported below.
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    try:
        yield
    except SteerError:
        raise
    except ImportError as error:
        raise SteerError(f"{subject}: {error}") from None
    except Exception as error:
        if type(error).__name__ == "OfflineModeIsEnabled":
            raise UnreachableError(
                f"{subject} cannot be read: the hub is not used ({OFFLINE})"
            ) from error
        status = getattr(getattr(error, "response", None), "status_code", None)
        message = getattr(error, "strerror", None) or str(error).strip()
        reason = next(iter(message.splitlines()), "") or type(error).__name__
        if status in (401, 403) or isinstance(error, PermissionError):
            raise SteerError(
                f"{subject}: not allowed: {reason}",
                hint="log in as the place wants it (the hub: `hf auth login`), or ask its owner",
            ) from error
        if status == 404 or isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise MissingError(f"{subject}: there is no such thing: {reason}") from error
        raise UnreachableError(f"{subject} cannot be reached: {reason}") from error


def _listed(place: Place, name: str, size: int) -> ListedVector:
    try:
        return ListedVector(name, size, header(place, name, size))
    except UnreachableError:
        raise
    except SteerError as error:
        return ListedVector(name, size, None, str(error))
