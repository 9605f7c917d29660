"""Checks that say what is wrong and what to do, and what is installed. No torch."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement

from steer import __version__
from steer.base.errors import SteerError

#: What a bug report needs to know; more is installed than matters.
_REPORTED = ("torch", "transformers", "transformer-lens", "tokenizers", "safetensors", "numpy")


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, whether it is well, what was seen, and if it is not, what to do."""

    name: str
    passed: bool
    detail: str
    advice: str | None = None


def check(name: str, look: Callable[[], str], advice: str) -> Check:
    """The outcome of `look`, which returns what it saw, and raises where that is not well.

    A SteerError's own hint goes before `advice`.
    """
    try:
        return Check(name, True, look())
    except SteerError as error:
        return Check(name, False, str(error), error.hint or advice)
    # Whatever a broken library raises is what the doctor is asked for.
    except Exception as error:
        return Check(name, False, f"{type(error).__name__}: {error}", advice)


def versions() -> dict[str, str]:
    """What is installed, and on what."""
    found = {
        "steer": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    return found | {name: _version(name) or "missing" for name in _REPORTED}


def packages() -> Check:
    """Whether everything that steer requires is installed, in a version that it takes."""

    def look() -> str:
        wrong = complaints()
        if wrong:
            raise SteerError("; ".join(wrong))
        return "all that steer needs, in versions that it takes"

    return check("packages", look, "python -m pip install --upgrade steer-activations")


def complaints() -> list[str]:
    """What is missing, or installed in a version that steer was not tested with."""
    return [text for text in map(_complaint, _requirements()) if text]


def _requirements() -> list[Requirement]:
    """What steer needs without extras, here."""
    made = map(Requirement, metadata.requires("steer-activations") or ())
    return [one for one in made if one.marker is None or one.marker.evaluate({"extra": ""})]


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
