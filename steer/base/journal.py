"""Journals keep finished pieces of work in a file, so that an interrupted run can be resumed.

The file's name is a hash of everything that the results depend on: the same command finds its
journal again, and another command does not.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from steer import __version__
from steer.base.files import append_cached, cache_folder, read_cached, reported
from steer.base.processes import several

_MAX_BYTES = 2_000_000_000


class Journal:
    """A line of JSON, with a key, for each finished piece of work. path: None keeps it in memory.

    Invalid lines are skipped, and their work is done again.

    Raises:
        SteerError: the folder or the file cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._done: dict[str, Any] = {}
        self._before = ""
        if path is not None:
            self._read(path)

    def _read(self, path: Path) -> None:
        data = read_cached(path, limit=_MAX_BYTES)
        if data is None:
            with reported(path):
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.unlink(missing_ok=True)  # somebody else can have written it
            return
        *lines, torn = data.split(b"\n")
        for line in lines:
            with suppress(ValueError, RecursionError):
                entry = json.loads(line)
                if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str):
                    self._done[entry[0]] = entry[1]
        # A run that was killed may have left an incomplete last line.
        self._before = "\n" if torn else ""

    @classmethod
    def of(cls, kind: str, *parts: Any) -> Journal:
        """The journal of the work that `parts`, plain JSON, determine."""
        text = json.dumps([__version__, *parts], sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
        if several():  # all processes have to start with the same work
            name += f"-{os.getpid()}"
        return cls(cache_folder(kind) / f"{name}.jsonl")

    def __len__(self) -> int:
        return len(self._done)

    def get(self, key: str) -> Any:
        """The value of `key`, or None."""
        return self._done.get(key)

    def put(self, key: str, value: Any) -> None:
        """Store a value, plain JSON.

        Raises:
            SteerError: the disk does not take it.
        """
        self._done[key] = value
        if self.path is None:
            return
        append_cached(self.path, f"{self._before}{json.dumps([key, value])}\n".encode())
        self._before = ""

    def kept(self, key: str, make: Callable[[], Any]) -> Any:
        """The value kept under `key`. If there is none, call `make`, and keep its result, which
        must be plain JSON.

        Raises:
            SteerError: the file cannot be written.
        """
        if key not in self._done:
            self.put(key, make())
        return self._done[key]

    def finish(self) -> None:
        """The work is done, and need not be kept."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
