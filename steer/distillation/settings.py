"""Settings of a distillation, with defaults that suit every model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from steer.base.errors import UsageError
from steer.methods.method import Options
from steer.methods.registry import distill_methods

#: The most texts and steps.
LARGEST = {
    "steps": 1_000_000,
    "samples": 100_000,
    "held_out": 100_000,
    "max_tokens": 1_000_000,
    "batch_size": 4_096,
    "tokens": 1_024,
}
#: Steps per layer in the search for the best one.
SEARCH_STEPS = 25
#: The default rank of a descent, and of one in a chat, which learns from more kinds of messages.
RANK, CHAT_RANK = 8, 32
#: The result: an edit of activations, or a learned token in the prompt.
Form = Literal["edit", "token"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """A learning rate that warms up, stays constant, and decays to 0 over the last third.

    steps: the most steps.
    """

    steps: int
    learning_rate: float
    batch_size: int
    seed: int

    def rate(self, step: int, end: int) -> float:
        """The learning rate of a step, counted from 0, in a run that ends after `end`."""
        warm = max(1, min(20, self.steps // 10))
        return self.learning_rate * min(1.0, (step + 1) / warm, 3 * (end - step) / end)

    def falling(self, step: int) -> int:
        """The end of a run whose decay starts at a step."""
        return -(-3 * step // 2)


@dataclass(frozen=True, slots=True)
class DistillSettings:
    """Settings of a distillation.

    rank: 0 is a vector; None chooses the best. layers: None chooses the best; empty is all.
    method: a name of `steer.methods.registry.distill_methods`. options: of the method. samples: the
    number of training texts, of at most max_tokens. held_out: the number of texts for measuring R.
    form: `token` trains `tokens` embeddings by descent, without rank, layers or scope. scalar:
    train a token for a range of coefficients, not only for 1.

    Raises:
        UsageError: a number is out of range, or the method or option does not exist.
    """

    name: str
    method: str = "descent"
    rank: int | None = None
    layers: tuple[int, ...] | None = None
    scope: Literal["all", "question", "response"] = "all"
    steps: int = 300
    samples: int = 1024
    held_out: int = 128
    max_tokens: int = 128
    batch_size: int = 16
    learning_rate: float = 0.02
    seed: int = 0
    description: str = ""
    license: str = ""
    options: Options = field(default_factory=dict)
    form: Form = "edit"
    tokens: int = 1
    scalar: bool = False

    def __post_init__(self) -> None:
        for name, largest in LARGEST.items():
            if not 1 <= getattr(self, name) <= largest:
                raise UsageError(f"--{name.replace('_', '-')} is at least 1, at most {largest:,}")
        distill_methods().named(self.method).settings(self.options)
        if (self.rank or 0) < 0 or self.seed < 0:
            raise UsageError("--rank and --seed are 0 or more")

    @property
    def validation(self) -> int:
        """The number of texts for choosing the state to keep, which are not used to measure R."""
        return max(1, self.held_out // 4)

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.steps, self.learning_rate, self.batch_size, self.seed)

    @property
    def search(self) -> Schedule:
        """The schedule for comparing layers."""
        size = -(-self.batch_size // 2)
        return Schedule(SEARCH_STEPS, self.learning_rate, size, self.seed)


def sizes(form: str, *, chat: bool, **chosen: int | None) -> dict[str, int]:
    """The numbers of texts, tokens and steps: the user's, or defaults of the form.

    chosen: steps, samples, held_out, max_tokens, tokens; None for the default.
    """
    if form == "token":
        usual = {"steps": 120, "samples": 192, "held_out": 64, "max_tokens": 32, "tokens": 1}
        usual |= {"batch_size": 8}
    elif chat:
        usual = {"steps": 100, "samples": 512, "held_out": 64, "max_tokens": 48, "tokens": 1}
        usual |= {"batch_size": 8}
    else:
        usual = {"steps": 300, "samples": 1024, "held_out": 128, "max_tokens": 128, "tokens": 1}
    return usual | {name: value for name, value in chosen.items() if value is not None}
