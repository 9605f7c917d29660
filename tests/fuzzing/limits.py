"""Runs a reader on one input after another, and tells what an input does that none may."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from fuzzing.readers import Target

from steer.base.errors import SteerError

SECONDS = 10
MEMORY = 200_000_000
_STATUS = Path("/proc/self/status")


class TooSlowError(BaseException):
    """Passes every `except Exception`."""


class TooBigError(BaseException):
    """More memory than an input may take."""


class Tally:
    """How many inputs there were, how many were read, and the most that one took, in bytes."""

    def __init__(self, target: Target, folder: Path, *, seconds: float = SECONDS) -> None:
        self.target, self.folder, self.seconds = target, folder, seconds
        self.n = self.n_read = self.most_memory = 0
        signal.signal(signal.SIGPROF, _too_slow)
        for data in target.seeds:  # what is imported and kept at first is not the input's
            with suppress(SteerError):
                target.read(data, folder)

    def add(self, data: bytes) -> BaseException | None:
        """Read one input; a defect is returned."""
        self.n += 1
        before = _forget_peak()
        signal.setitimer(signal.ITIMER_PROF, self.seconds)
        try:
            self.target.read(data, self.folder)
            self.n_read += 1
        except SteerError as error:
            if not str(error).strip():
                return AssertionError("an error without a message")
        except BaseException as error:
            return error
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        taken = _peak() - before
        self.most_memory = max(self.most_memory, taken)
        if taken > MEMORY:
            try:
                raise TooBigError(f"{taken:,} bytes")
            except TooBigError as error:
                return error
        return None


def _too_slow(*_: Any) -> None:
    raise TooSlowError("still reading")


def _forget_peak() -> int:
    """Linux forgets the most memory that there was, and says how much there is."""
    if not _STATUS.exists():
        return 0
    Path("/proc/self/clear_refs").write_text("5")
    return _field("VmRSS")


def _peak() -> int:
    return _field("VmHWM") if _STATUS.exists() else 0


def _field(name: str) -> int:
    text = _STATUS.read_text()
    start = text.index(name) + len(name) + 1
    return 1024 * int(text[start : text.index("kB", start)])
