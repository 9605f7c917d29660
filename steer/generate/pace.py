"""Fit a measurement into a time: measure the speed of a model, and reduce the work.

The time of a run is extrapolated from a trial of about a second, and may be wrong by half. If a run
does not fit, fewer texts are generated and scored, and a sweep has fewer layers and coefficients.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from steer.base.durations import duration
from steer.generate.apply import Sampling, continue_ids
from steer.models.model import Model

#: Rows and tokens of the forward that is timed, and new tokens of the timed generation.
_ROWS, _TOKENS, _NEW = 8, 48, 6
#: The share of the allowed time that an estimate may take; the rest is for uncounted work.
SHARE = 0.8
#: Sizes to try, from the full one on: shares of texts and of tokens, and layers of a sweep.
STEPS = ((1.0, 1.0, None), (0.5, 0.75, 12), (0.35, 0.5, 8), (0.25, 0.4, 6), (0.2, 0.3, 3))
#: The fewest texts and tokens of a useful measurement.
FEWEST_TEXTS, FEWEST_TOKENS = 8, 16


@dataclass(frozen=True, slots=True)
class Pace:
    """The speed of a model in tokens per second: read by forwards, and generated in a batch."""

    read: float
    written: float


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a measurement: held-out items, generated texts, the most tokens of a text, and
    the layers of a sweep (None: all)."""

    items: int
    samples: int
    max_tokens: int
    layers: int | None = None


def pace(model: Model, rows: int = _ROWS) -> Pace:
    """Time a forward and a short generation of `rows` texts at once."""
    ordinary = [
        token for token in range(model.tokenizer.vocab_size) if token not in model.special_ids
    ]
    ids = [ordinary[(7 * row) % len(ordinary)] for row in range(_TOKENS)]
    batch = torch.tensor([ids] * rows, device=model.device)
    with torch.no_grad():
        read = _seconds(lambda: model.network(input_ids=batch, use_cache=False))
    settings = Sampling(max_tokens=_NEW, temperature=0.0, batch_size=rows)
    starts = [(ids[:16], number) for number in range(rows)]
    written = _seconds(lambda: continue_ids(model, starts, (), settings))
    return Pace(rows * _TOKENS / read, rows * _NEW / written)


def sizes(full: Size) -> list[Size]:
    """The full size and smaller ones; each has no more of anything than the one before."""
    every = full.layers
    smaller = (
        Size(
            items=_part(full.items, texts, FEWEST_TEXTS),
            samples=_part(full.samples, texts, FEWEST_TEXTS),
            max_tokens=_part(full.max_tokens, tokens, FEWEST_TOKENS),
            layers=None if every is None else min(every, layers or every),
        )
        for texts, tokens, layers in STEPS
    )
    return list(dict.fromkeys(smaller))


def largest_size(
    sizes: Sequence[Size], seconds: Callable[[Size], float], budget: float
) -> tuple[Size, float]:
    """The first size that fits into `budget` seconds, else the last; and its estimated seconds.
    seconds: gives the estimate for a size."""
    for size in sizes:
        if seconds(size) <= SHARE * budget:
            break
    return size, seconds(size)


def announce(budget: float, seconds: float, missing: str, full_time: float) -> str:
    """A line for the user: the time, and what is left out to fit into it."""
    if not missing:
        return f"--budget {duration(budget)}: all of it, about {duration(seconds)}"
    return (
        f"--budget {duration(budget)}: {missing}; about {duration(seconds)}, where all would take"
        f" about {duration(full_time)}"
    )


def left_out(full: Size, size: Size, n_layers: int | None = None) -> str:
    """What a smaller size leaves out: `12 of 48 texts, 24 of 64 tokens`; empty if nothing."""
    parts = []
    for unit, some, every in (
        ("held-out items", size.items, full.items),
        ("written texts", size.samples, full.samples),
        ("tokens of a text", size.max_tokens, full.max_tokens),
    ):
        if some < every:
            parts.append(f"{some} of {every} {unit}")
    if n_layers is not None and size.layers is not None and size.layers < n_layers:
        parts.append(f"{size.layers} of {n_layers} layers with every second coefficient")
    return ", ".join(parts)


def _part(full: int, share: float, fewest: int) -> int:
    return min(full, max(fewest, round(share * full)))


def _seconds(work: Callable[[], object]) -> float:
    """The time of the second call; the first one warms up."""
    work()
    began = time.perf_counter()
    work()
    return max(1e-6, time.perf_counter() - began)
