"""Options that several functions of the public API share, each written once.

A function takes them as `**options: Unpack[...]`, which editors and type checkers read, and hands
them on to one that names them all with their defaults; `@spelled_out` shows these in its signature.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

if TYPE_CHECKING:
    from steer.base.progress import Progress
    from steer.library.data import Data
    from steer.steering.projection import Guard, OnTrip, Projection

Function = TypeVar("Function", bound=Callable[..., Any])


class NameOptions(TypedDict, total=False):
    """Options for the names of fields in data: see `contrast_set`."""

    mapping: Mapping[str, str] | None
    positive_label: str | Sequence[str]
    negative_label: str | Sequence[str]
    lists: str | None
    split: str | None


class ContrastOptions(NameOptions, total=False):
    """Options for making a contrast set from texts: see `contrast_set`."""

    positive: str | Sequence[str] | None
    negative: str | Sequence[str] | None
    texts: Data | None
    held_out: float
    template: str | None
    chat: bool
    system: str | None


class GenerateOptions(TypedDict, total=False):
    """Options for generating text: see `Model.generate`."""

    on_text: Callable[[str], None] | None
    chat: bool
    system: str | None
    condition: str | Sequence[str]
    strength: float | Sequence[float]
    live_layer: int | None
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    stop: str | Sequence[str]
    beams: int
    seed: int
    watch: str | Projection | Sequence[str | Projection]
    guards: str | Guard | Sequence[str | Guard]
    on_trip: OnTrip
    allow_other_model: bool
    allow_idle: bool


class MeasureOptions(NameOptions, total=False):
    """Options for measuring effect and cost: see `evaluate`."""

    condition: str | None
    baseline: str
    chat: bool
    prompts: Data | None
    unrelated: Data | None
    samples: int
    max_tokens: int
    seed: int
    allow_overlap: bool
    allow_other_model: bool
    budget: str | float | None
    progress: Progress


def spelled_out(by: Callable[..., Any]) -> Callable[[Function], Function]:
    """Show the keyword parameters of `by` where a function has `**options`."""

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        names = {parameter.name for parameter in own}
        added = [
            parameter
            for parameter in inspect.signature(by).parameters.values()
            if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in names
        ]
        function.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*own, *added]
        )
        return function

    return decorate
