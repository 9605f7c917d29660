"""Every method that is known: those of `steer.methods.builtin`, and those of other packages.

Another package names its own under the entry points `steer.methods`. The help, the suite, the docs
and the tests read these registries; nothing else lists methods.
"""

from __future__ import annotations

from functools import cache
from typing import TypeVar

from steer.base.errors import InputError, UsageError
from steer.base.extensions import Registry, load
from steer.base.text import listed
from steer.methods.method import DistillMethod, FitMethod, Method, Value

GROUP = "steer.methods"
M = TypeVar("M", bound=Method)


@cache
def methods() -> Registry[Method]:
    """The methods of all kinds."""
    return load(Method, noun="method", group=GROUP, own="steer.methods.builtin", attribute="METHOD")


def fit_methods() -> Registry[FitMethod]:
    """The methods that fit recorded activations, of `steer extract` and `steer fit`."""
    return methods().of_kind(FitMethod)


def distill_methods() -> Registry[DistillMethod]:
    """The methods of `steer distill`."""
    return methods().of_kind(DistillMethod)


def is_distill_method(text: str) -> bool:
    """Whether `NAME` or `NAME:OPTION=VALUE,...` names a method of `steer distill`."""
    return text.partition(":")[0] in distill_methods().names


def usual_distill_method(*, chat: bool) -> str:
    """The default method of `steer distill`. chat: for a condition in a chat."""
    kind = "chat" if chat else "text"
    return next(method.name for method in distill_methods() if method.usual == kind)


def parse_method(text: str, known: Registry[M]) -> tuple[M, dict[str, Value]]:
    """A method and the options that `NAME` or `NAME:OPTION=VALUE,...` sets.

    Raises:
        UsageError: no such method or option, or a wrong value.
    """
    name, _, options = (part.strip() for part in text.partition(":"))
    if name not in known and name in methods():
        other = methods().named(name)
        raise UsageError(
            f"{name} is a method of `{other.command}`", hint=f"use one of {listed(known.names)}"
        )
    method = known.named(name)
    return method, method.parse_options(options)


def check_paired(method: FitMethod, *, paired: bool) -> None:
    """Refuse texts that are not pairs for a method that needs pairs.

    Raises:
        InputError: there are none. The i-th texts of two sets have nothing to do with each other.
    """
    if method.needs_pairs and not paired:
        others = [other.name for other in fit_methods() if not other.needs_pairs]
        raise InputError(
            f"{method.name} is of the differences within pairs, and these texts are not pairs",
            hint=f"use one of {listed(others)}",
        )
