"""`steer.lock` in a folder of vectors: where each pulled one came from.

JSON with sorted keys. Nothing is fetched because it stands here.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from steer.base.errors import VectorError
from steer.base.files import read_bytes, reported, safe_name, write_atomic
from steer.base.strict_json import load_strict_json
from steer.vectors.record import Record

NAME = "steer.lock"
FORMAT = 1
_MAX_BYTES = 4_000_000


class Origin(Record, frozen=True, omit_defaults=True):
    """url: as it was asked for, without passwords. revision: the commit, where there are commits.
    sha256: the vector's own.
    """

    url: str
    sha256: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.url + (f" at {self.revision[:12]}" if self.revision else "")


class _Lock(Record, frozen=True):
    format: int
    vectors: dict[str, Origin]


def origins(folder: Path) -> dict[str, Origin]:
    """Names to origins; none where there is no lock file.

    Raises:
        VectorError: the file is damaged, or of a later version.
    """
    file = folder / NAME
    with reported(file):
        if not file.is_file():
            return {}
    try:
        text = read_bytes(file, limit=_MAX_BYTES).decode()
        read = msgspec.convert(load_strict_json(text, str(file)), _Lock)
    except (UnicodeDecodeError, msgspec.ValidationError) as error:
        raise VectorError(f"{file} is not a lock file: {error}", hint="remove it") from None
    if read.format != FORMAT:
        raise VectorError(f"{file} has format {read.format}; this steer reads {FORMAT}")
    return {name: origin for name, origin in read.vectors.items() if safe_name(name)}


def keep(folder: Path, name: str, origin: Origin) -> None:
    """Note where a vector came from. Processes that do so at once wait for each other."""
    from filelock import FileLock

    with reported(folder), FileLock(folder / f".{NAME}.guard"):
        known = origins(folder) | {name: origin}
        plain = msgspec.to_builtins(_Lock(format=FORMAT, vectors=known))
        text = json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False)
        write_atomic(folder / NAME, (text + "\n").encode(), force=True)
