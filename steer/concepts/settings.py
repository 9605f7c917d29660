"""Settings for making vectors from concepts. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from steer.base.errors import UsageError
from steer.concepts.questions import Questions
from steer.methods.method import Options, Value
from steer.methods.registry import fit_methods, parse_method
from steer.vectors.parts import Part
from steer.vectors.sites import SiteName, site_name


@dataclass(frozen=True, slots=True)
class MakeSettings:
    """Settings for making vectors from concepts.

    method, options: as in `steer.fitting.fitting.FitSettings`. chat: whether conditions and
    questions go into the chat template; by default if there is one. phrase: a condition with `{}`
    for the pole. questions: instead of steer's own. train, choice and held_out: the number of
    questions of each set. parts: of attention heads or experts, how many to keep, or which.
    keep_condition: whether answers are recorded after their condition.
    layers: where the vector is added; by default in the upper middle of the model. strengths: the
    multiples to try, each divided among the layers.
    """

    method: str = "mean_diff"
    options: Options = field(default_factory=dict)
    site: SiteName = "resid_post"
    parts: int | tuple[Part, ...] | None = None
    layers: tuple[int, ...] | None = None
    chat: bool | None = None
    phrase: str | None = None
    questions: Questions | None = None
    train: int = 32
    choice: int = 8
    held_out: int = 16
    max_tokens: int = 32
    temperature: float = 0.7
    seed: int = 0
    keep_condition: bool = True
    strengths: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
    license: str = ""

    def __post_init__(self) -> None:
        for name, least in (("train", 2), ("choice", 2), ("held_out", 4), ("max_tokens", 4)):
            if getattr(self, name) < least:
                raise UsageError(f"--{name.replace('_', '-')} is at least {least}")


def make_settings(
    method: str = "mean_diff",
    options: Mapping[str, Value] | None = None,
    *,
    site: str = "resid_post",
    layers: Sequence[int] | None = None,
    questions: Sequence[str] | None = None,
    **others: Any,
) -> MakeSettings:
    """Settings from the user's options.

    method: also with options, as in `probe:penalty=2`. questions: to be divided into the three
    sets. others: as in `MakeSettings`.

    Raises:
        UsageError: the method, one of its options, or the site does not exist.
        InputError: there are too few questions.
    """
    known, values = parse_method(method, fit_methods())
    return MakeSettings(
        method=known.name,
        options=known.settings(values | dict(options or {})),
        site=site_name(site),
        layers=None if layers is None else tuple(layers),
        questions=None if questions is None else Questions.split(questions),
        **others,
    )


#: For packs of hundreds: fewer and shorter answers.
QUICK: dict[str, Any] = {
    "train": 10,
    "choice": 3,
    "held_out": 8,
    "max_tokens": 16,
    "strengths": (1.0, 2.0, 3.5),
}
