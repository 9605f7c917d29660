"""What to distil into, and how: the user's choices, and defaults that suit every model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from steer.base.errors import UsageError
from steer.methods.method import Options
from steer.methods.registry import distill_methods

#: More texts would exhaust a machine, and more steps the user's patience.
LARGEST = {
    "steps": 1_000_000,
    "samples": 100_000,
    "held_out": 100_000,
    "max_tokens": 1_000_000,
    "batch_size": 4_096,
    "tokens": 1_024,
}
#: Steps that a layer gets where the layer is searched.
SEARCH_STEPS = 25
#: Rank of an edit that is descended to, where none is named.
RANK = 8
#: What a condition becomes: an edit of activations, or a token that stands in the prompt.
Form = Literal["edit", "token"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """A learning rate that warms up, stays, and falls to nothing over the last third of the steps.

    steps: at most.
    """

    steps: int
    learning_rate: float
    batch_size: int
    seed: int

    def rate(self, step: int, end: int) -> float:
        """Learning rate of a step, from 0, of a run that ends after `end`."""
        warm = max(1, min(20, self.steps // 10))
        return self.learning_rate * min(1.0, (step + 1) / warm, 3 * (end - step) / end)

    def falling(self, step: int) -> int:
        """Where a run ends whose rate begins to fall at a step; a fall goes on as it began."""
        return -(-3 * step // 2)


@dataclass(frozen=True, slots=True)
class DistillSettings:
    """What to distil into. rank 0 is a vector; None: the best one. layers None: the best ones;
    empty: all.

    method: a name of `steer.methods.registry.distill_methods`; options: those of the method that
    are set. samples: texts to learn from, of max_tokens at most; held_out: others, which decide
    what R is.

    form: `token` makes embeddings, `tokens` of them, by descent; it has no rank, layers or scope.
    scalar: a token for a range of coefficients, not for 1 alone.

    Raises:
        UsageError: a number out of its range, or no such method or option.
    """

    name: str
    method: str = "descent"
    rank: int | None = None
    layers: tuple[int, ...] | None = None
    scope: Literal["all", "response"] = "all"
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
        """Texts that decide which state is kept, so that those which give R do not."""
        return max(1, self.held_out // 4)

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.steps, self.learning_rate, self.batch_size, self.seed)

    @property
    def search(self) -> Schedule:
        """Of a layer that is tried: enough to tell it from others."""
        size = -(-self.batch_size // 2)
        return Schedule(SEARCH_STEPS, self.learning_rate, size, self.seed)


def sizes(form: str, *, chat: bool, **given: int | None) -> dict[str, int]:
    """How much is sampled and how long is trained: as given, or what suits the form.

    given: steps, samples, held_out, max_tokens, tokens; None where the user leaves it out.
    """
    if form == "token":
        usual = {"steps": 120, "samples": 192, "held_out": 64, "max_tokens": 32, "tokens": 1}
        usual |= {"batch_size": 8}
    elif chat:
        usual = {"steps": 300, "samples": 256, "held_out": 64, "max_tokens": 64, "tokens": 1}
    else:
        usual = {"steps": 300, "samples": 1024, "held_out": 128, "max_tokens": 128, "tokens": 1}
    return usual | {name: value for name, value in given.items() if value is not None}
