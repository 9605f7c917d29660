"""The vectors of the pocket model that steer brings along."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_INSTALLED = _PACKAGE / "pocket" / "vectors"

#: Their folder: in a checkout `vectors/`, which an installation has inside the package.
SHIPPED = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "vectors"
