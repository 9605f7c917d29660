"""What is generated: how it is asked for, and what comes of it. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from steer.errors import UsageError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to generate. temperature 0 is greedy; top_k 0 and top_p 1 leave all tokens in.

    Raises:
        UsageError: a number out of its range.
    """

    max_tokens: int = 64
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    samples: int = 1
    seed: int = 0
    batch_size: int = 16

    def __post_init__(self) -> None:
        for name in ("max_tokens", "samples", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} is at least 1")
        if not 0 <= self.temperature < math.inf:
            raise UsageError("--temperature is 0 or more", hint="0 is greedy")
        if not 0 < self.top_p <= 1:
            raise UsageError("--top-p is above 0 and at most 1")
        if self.top_k < 0 or self.seed < 0:
            raise UsageError("--top-k and --seed are 0 or more")
        if "" in self.stop:
            raise UsageError("a stop string is empty")


@dataclass(frozen=True, slots=True)
class Generation:
    """One continuation. `finish`: the model ended it, a stop string did, or it is as long as
    allowed."""

    prompt: str
    sample: int
    text: str
    n_tokens: int
    finish: Literal["end", "stop", "length"]
