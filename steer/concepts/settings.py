"""How vectors are made of concepts. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from steer.base.errors import UsageError
from steer.concepts.questions import Questions
from steer.methods.method import Options
from steer.vectors.sites import SiteName

#: Extra nats a token that steering may cost beyond what the prompt costs.
BUDGET = 1.0


@dataclass(frozen=True, slots=True)
class MakeSettings:
    """How vectors are made of concepts.

    method, options: as of `steer.fitting.fitting.FitSettings`. chat: whether conditions and
    questions go into the chat template; None: where there is one. phrase: a condition with `{}` for
    the pole. questions: in place of the tool's own. train, choice and held_out: how many questions
    of each kind are asked. keep_condition: whether answers are read after the condition that they
    were written under. depths, coefficients: where vectors are tried, as shares of the layers (in
    place of layers), and with which multiples.
    """

    method: str = "mean_diff"
    options: Options = field(default_factory=dict)
    site: SiteName = "resid_post"
    layers: tuple[int, ...] | None = None
    chat: bool | None = None
    phrase: str | None = None
    questions: Questions | None = None
    train: int = 32
    choice: int = 8
    held_out: int = 16
    max_tokens: int = 32
    seed: int = 0
    keep_condition: bool = True
    depths: tuple[float, ...] = (0.47, 0.6, 0.74)
    coefficients: tuple[float, ...] = (1.0, 2.0, 4.0)
    budget: float = BUDGET
    license: str = ""

    def __post_init__(self) -> None:
        for name, least in (("train", 2), ("choice", 2), ("held_out", 4), ("max_tokens", 4)):
            if getattr(self, name) < least:
                raise UsageError(f"--{name.replace('_', '-')} is at least {least}")


#: For packs of hundreds: fewer and shorter answers.
QUICK: dict[str, Any] = {
    "train": 10,
    "choice": 3,
    "held_out": 8,
    "max_tokens": 16,
    "depths": (0.6, 0.74),
    "coefficients": (2.0, 4.0),
}
