"""Checks of the installation, each with advice if it fails. No torch."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement

from steer import __version__
from steer.base.errors import SteerError

#: The packages whose versions a bug report needs.
_REPORTED = ("torch", "transformers", "transformer-lens", "tokenizers", "safetensors", "numpy")


@dataclass(frozen=True, slots=True)
class Check:
    """A check: its name, whether it passed, the details, and advice if it failed."""

    name: str
    passed: bool
    detail: str
    advice: str | None = None


def check(name: str, look: Callable[[], str], advice: str) -> Check:
    """Run `look`, which returns details, or raises if the check fails.

    The hint of a SteerError takes precedence over `advice`.
    """
    try:
        return Check(name, True, look())
    except SteerError as error:
        return Check(name, False, str(error), error.hint or advice)
    # A broken library may raise anything, and finding that out is the purpose of the check.
    except Exception as error:
        return Check(name, False, f"{type(error).__name__}: {error}", advice)


def versions() -> dict[str, str]:
    """The versions of steer, Python and its packages, and the platform."""
    basic = {
        "steer": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    return basic | {name: _version(name) or "missing" for name in _REPORTED}


def packages() -> Check:
    """Whether everything that steer requires is installed, in a supported version."""

    def look() -> str:
        wrong = complaints()
        if wrong:
            raise SteerError("; ".join(wrong))
        return "all required packages, in supported versions"

    return check("packages", look, "python -m pip install --upgrade steer-activations")


def complaints() -> list[str]:
    """The packages that are missing, or installed in an unsupported version."""
    return [text for text in map(_complaint, _requirements()) if text]


def _requirements() -> list[Requirement]:
    """The requirements of steer on this platform, without extras."""
    requirements = map(Requirement, metadata.requires("steer-activations") or ())
    return [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]


def _complaint(needed: Requirement) -> str | None:
    version = _version(needed.name)
    if version is None:
        return f"{needed.name} is missing"
    if not needed.specifier.contains(version, prereleases=True):
        return f"{needed.name} is {version}, not {needed.specifier}"
    return None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
