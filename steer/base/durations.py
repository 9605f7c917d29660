"""Times as people write them: `90s`, `5m`, `1.5h`."""

from __future__ import annotations

import re

from steer.base.errors import UsageError

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)\s*(s|min|m|h)?")


def seconds_of(text: str | float) -> float:
    """`90`, `90s`, `5m` or `1.5h` in seconds.

    Raises:
        UsageError: it is no time, or none at all.
    """
    match = _DURATION.fullmatch(str(text).strip())
    seconds = float(match[1]) * _UNITS[match[2] or ""] if match else 0.0
    if seconds <= 0:
        raise UsageError(f"{str(text)[:40]!r} is not a time", hint="write 90s, 5m or 1h")
    return seconds


def duration(seconds: float) -> str:
    """`40 s`, `12 min` or `2.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
