"""The demonstration: measure a vector that was made from stories of the pocket grammar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from steer.base.intervals import Interval, ratio
from steer.generate.apply import Generation, Sampling, generate
from steer.measures.baselines import N_RANDOM, random_direction
from steer.models.model import Model
from steer.pocket import corpus
from steer.pocket.pairs import KIND, VALUE
from steer.steering.steers import Steer

TAG = f"[{KIND}: {VALUE}] "


@dataclass(frozen=True, slots=True)
class DemoRow:
    """The share of `VALUE`'s words among those of its kind, and of grammatical sentences."""

    label: str
    words: Interval
    grammatical: Interval


def measure(
    model: Model,
    steer: Steer,
    prompt: str,
    sampling: Sampling,
    on_done: Callable[[Generation], None] = lambda generation: None,
) -> Iterator[DemoRow]:
    """Measure the effect of `steer` on stories that begin with `prompt`, beside baselines:
    unsteered, random directions of the same length (`N_RANDOM` seeds together), and the condition
    as a prompt. Yields each row as soon as it is measured.
    """

    def stories(steers: Sequence[Steer], start: str = prompt) -> list[str]:
        texts = []
        for generation in generate(model, [start], steers, sampling):
            texts.append(prompt + generation.text)
            on_done(generation)
        return texts

    yield _row("unsteered", [stories([])])
    turned = [random_direction(steer, seed) for seed in range(N_RANDOM)]
    yield _row("random direction", [stories([random]) for random in turned])
    yield _row(str(steer), [stories([steer])])
    yield _row(f"prompt {TAG.strip()}", [stories([], TAG + prompt)])


def n_generations(sampling: Sampling) -> int:
    """The number of calls of `on_done` by `measure`."""
    return (3 + N_RANDOM) * sampling.samples


def _row(label: str, stories: Sequence[Sequence[str]]) -> DemoRow:
    """stories: for each direction."""
    words = [[corpus.counts(story)[KIND] for story in texts] for texts in stories]
    parsed = [[corpus.parsed_sentences(story) for story in texts] for texts in stories]
    return DemoRow(
        label,
        _ratio([[(counts[VALUE], sum(counts.values())) for counts in texts] for texts in words]),
        _ratio(parsed),
    )


def _ratio(pairs: Sequence[Sequence[tuple[int, int]]]) -> Interval:
    counts = np.array(pairs, float)  # [direction, story, 2]
    # Several directions are resampled as a whole, which includes the noise of their stories.
    counts = counts if len(counts) == 1 else counts.sum(1, keepdims=True)
    return ratio(counts[..., 0], counts[..., 1])
