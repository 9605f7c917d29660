"""The demonstration: a vector from the pocket grammar's stories, and its measured effect."""

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
class Row:
    """Share of `VALUE`'s words among its kind's, and of sentences that the grammar can parse."""

    label: str
    words: Interval
    grammatical: Interval


def measure(
    model: Model,
    steer: Steer,
    prompt: str,
    sampling: Sampling,
    on_done: Callable[[Generation], None] = lambda generation: None,
) -> Iterator[Row]:
    """The effect of `steer` on stories that begin with `prompt`, with its baselines beside it.

    Baselines: unsteered, random directions of the same length (`N_RANDOM` seeds together), and the
    condition as a prompt. Yields each row as it is known.
    """

    def stories(steers: Sequence[Steer], start: str = prompt) -> list[str]:
        texts = []
        for generation in generate(model, [start], steers, sampling):
            texts.append(prompt + generation.text)
            on_done(generation)
        return texts

    yield _row("unsteered", [stories([])])
    turned = [random_direction(steer, seed) for seed in range(N_RANDOM)]
    yield _row("random direction", [stories([one]) for one in turned])
    yield _row(str(steer), [stories([steer])])
    yield _row(f"prompt {TAG.strip()}", [stories([], TAG + prompt)])


def n_generations(sampling: Sampling) -> int:
    """How often `measure` will call `on_done`."""
    return (3 + N_RANDOM) * sampling.samples


def _row(label: str, stories: Sequence[Sequence[str]]) -> Row:
    """stories: of each direction."""
    words = [[corpus.counts(story)[KIND] for story in one] for one in stories]
    parsed = [[corpus.parsed_sentences(story) for story in one] for one in stories]
    return Row(
        label,
        _ratio([[(found[VALUE], sum(found.values())) for found in one] for one in words]),
        _ratio(parsed),
    )


def _ratio(found: Sequence[Sequence[tuple[int, int]]]) -> Interval:
    counts = np.array(found, float)  # [direction, story, 2]
    # What directions are told by has the chance of their stories in it.
    counts = counts if len(counts) == 1 else counts.sum(1, keepdims=True)
    return ratio(counts[..., 0], counts[..., 1])
