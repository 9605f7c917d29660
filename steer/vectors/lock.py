"""`steer.lock` in a folder of vectors: the origin and the signer of each pulled vector.

JSON with sorted keys. The file never causes a download. Every reader of a vector file calls
`check`, so that a signed vector cannot be replaced unnoticed.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from steer.base.errors import VectorError
from steer.base.files import read_bytes, reported, safe_name, write_atomic
from steer.base.strict_json import load_strict_json
from steer.vectors import signing
from steer.vectors.record import Record

NAME = "steer.lock"
FORMAT = 1
_MAX_BYTES = 4_000_000


class Origin(Record, frozen=True, omit_defaults=True):
    """The origin of a pulled vector.

    url: the requested address, without passwords. revision: the commit, where there are commits.
    sha256: the vector's hash. signature: in base64, if the vector came with one. signer: the public
    key that the signature was checked with, in the form of `signing.key_text`.
    """

    url: str
    sha256: str
    revision: str | None = None
    signature: str | None = None
    signer: str | None = None

    def __str__(self) -> str:
        return self.url + (f" at {self.revision[:12]}" if self.revision else "")


class _Lock(Record, frozen=True):
    format: int
    vectors: dict[str, Origin]


def origins(folder: Path) -> dict[str, Origin]:
    """Names to origins; none where there is no lock file.

    Raises:
        VectorError: the file is damaged, or of a later version.
        SteerError: the file cannot be read.
    """
    file = folder / NAME
    with reported(file):
        if not file.exists():
            return {}
    try:
        text = read_bytes(file, limit=_MAX_BYTES).decode()
        read = msgspec.convert(load_strict_json(text, str(file)), _Lock)
    except (UnicodeDecodeError, msgspec.ValidationError) as error:
        raise VectorError(f"{file} is not a lock file: {error}", hint="remove it") from None
    if read.format != FORMAT:
        raise VectorError(f"{file} has format {read.format}; this steer reads {FORMAT}")
    return {name: origin for name, origin in read.vectors.items() if safe_name(name)}


def check(path: Path, data: bytes, sha256: str) -> None:
    """Refuse a file that has replaced a signed vector, unless the same signer signed it.

    data: the bytes of the file. sha256: the vector's hash. A vector that was pulled without a
    signature may be replaced; `steer verify` reports that.

    Raises:
        VectorError: the file is not signed by the signer of the vector that was pulled.
        SteerError: the lock file or the signature cannot be read.
    """
    origin = origins(path.parent).get(path.stem)
    if origin is None or origin.signature is None or origin.sha256 == sha256:
        return
    check_successor(
        origin,
        data,
        signing.read_beside(path),
        subject=str(path),
        hint=f"pull it again: steer pull {origin.url} --force; if you replaced it yourself, remove"
        f" its entry from {path.parent / NAME}",
    )


def check_successor(
    origin: Origin, data: bytes, signature: bytes | None, *, subject: str, hint: str
) -> None:
    """Refuse another vector in place of a signed one, unless the known signer signed it too.

    origin: of the signed vector. data, signature: of the other one.

    Raises:
        VectorError: the other vector is not signed or signed by another key, or the signer of the
            first is not known.
    """
    before = f"the vector that was pulled from {origin} was signed"
    if signature is None:
        raise VectorError(f"{subject} is not signed, and {before}", hint=hint)
    if origin.signer is None:
        raise VectorError(
            f"{subject} is another vector, and {before} by a key that is not known here", hint=hint
        )
    if not signing.is_signed(data, signature, origin.signer):
        key = signing.fingerprint(origin.signer)
        raise VectorError(f"{subject} is not signed by key {key}, and {before} by it", hint=hint)


def keep(folder: Path, name: str, origin: Origin) -> None:
    """Record the origin of a vector. Concurrent writers wait for each other."""
    _change(folder, name, origin)


def forget(folder: Path, name: str) -> None:
    """Remove the entry of a vector that the user replaces."""
    with reported(folder):
        if not (folder / NAME).exists():
            return
    if name in origins(folder):
        _change(folder, name, None)


def find_pulled(folder: Path, url: str, sha256: str | None) -> str | None:
    """The name of the vector in this folder that was pulled from `url` (with this hash, if one is
    given); None if there is none.
    """
    for name, origin in origins(folder).items():
        if origin.url == url and sha256 in (None, origin.sha256):
            return name
    return None


def _change(folder: Path, name: str, origin: Origin | None) -> None:
    from filelock import FileLock

    with reported(folder), FileLock(folder / f".{NAME}.guard"):
        known = origins(folder)
        known.pop(name, None)
        if origin is not None:
            known[name] = origin
        plain = msgspec.to_builtins(_Lock(format=FORMAT, vectors=known))
        text = json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False)
        write_atomic(folder / NAME, (text + "\n").encode(), force=True)
