"""Work that is done, kept in a file as it is done, so that a run that was killed can go on.

A journal belongs to what it is a journal of: the file's name is a hash of everything that the
numbers depend on, so the same command finds it again and another one does not.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from steer import __version__
from steer.files import cache_folder, reported
from steer.processes import several


class Journal:
    """A line of JSON for each piece of work that is done, under its key.

    Raises:
        SteerError: the folder or the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._done: dict[str, Any] = {}
        with reported(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_text() if path.exists() else ""
        *whole, torn = text.split("\n")
        for line in whole:
            with suppress(ValueError):
                key, value = json.loads(line)
                self._done[key] = value
        # The last line of a run that was killed while it wrote it is not whole.
        self._before = "\n" if torn else ""

    @classmethod
    def of(cls, kind: str, *parts: Any) -> Journal:
        """The journal of what `parts`, plain JSON, determine."""
        told = json.dumps([__version__, *parts], sort_keys=True)
        name = hashlib.sha256(told.encode()).hexdigest()[:32]
        if several():  # all are to begin at the same place
            name += f"-{os.getpid()}"
        return cls(cache_folder(kind) / f"{name}.jsonl")

    def __len__(self) -> int:
        return len(self._done)

    def get(self, key: str) -> Any:
        """What was kept under `key`, or None."""
        return self._done.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keep a value, plain JSON.

        Raises:
            SteerError: the disk does not take it.
        """
        self._done[key] = value
        with reported(self.path), self.path.open("a") as file:
            file.write(self._before + json.dumps([key, value]) + "\n")
        self._before = ""

    def finish(self) -> None:
        """The work is done, and need not be kept."""
        self.path.unlink(missing_ok=True)
