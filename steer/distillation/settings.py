"""What to distil into, and how: the user's choices, and defaults that suit every model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from steer.errors import UsageError


@dataclass(frozen=True, slots=True)
class Schedule:
    """Adam with a short warm-up, then a cosine to nothing, and gradients clipped to length 1."""

    steps: int
    learning_rate: float
    batch_size: int
    seed: int

    def rate(self, step: int) -> float:
        """Learning rate of a step, from 0."""
        warm = max(1, min(20, self.steps // 10))
        cosine = 0.5 * (1 + np.cos(np.pi * step / self.steps))
        return float(self.learning_rate * min(1.0, (step + 1) / warm) * max(cosine, 0.01))


@dataclass(frozen=True, slots=True)
class DistillSettings:
    """What to distil into. rank 0 is a vector. layers None: the best one; empty: all.

    samples: texts to learn from, of max_tokens at most; held_out: others, which decide what R is.

    Raises:
        UsageError: a number out of its range.
    """

    name: str
    rank: int = 8
    layers: tuple[int, ...] | None = None
    scope: Literal["all", "response"] = "all"
    steps: int = 300
    samples: int = 1024
    held_out: int = 128
    max_tokens: int = 128
    batch_size: int = 16
    learning_rate: float = 0.01
    seed: int = 0
    description: str = ""
    license: str = ""

    def __post_init__(self) -> None:
        for name in ("steps", "samples", "held_out", "max_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} is at least 1")
        if self.rank < 0 or self.seed < 0:
            raise UsageError("--rank and --seed are 0 or more")

    @property
    def validation(self) -> int:
        """Texts that decide which state is kept, so that those which give R do not."""
        return max(1, self.held_out // 2)

    def schedule(self, steps: int) -> Schedule:
        return Schedule(steps, self.learning_rate, self.batch_size, self.seed)
