"""The demonstration: a vector from the pocket grammar's stories, and its measured effect."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from steer.generate.apply import Generation, Sampling, generate
from steer.intervals import Interval, ratio
from steer.measures.baselines import random_direction
from steer.models.model import Model
from steer.pocket import corpus
from steer.pocket.pairs import KIND, VALUE
from steer.steering.steers import Steer

TAG = f"[{KIND}: {VALUE}] "
N_RANDOM = 3


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

    yield _row("unsteered", stories([]))
    turned = [random_direction(steer, seed) for seed in range(N_RANDOM)]
    noise = [story for one in turned for story in stories([one])]
    yield _row("random direction", noise)
    yield _row(str(steer), stories([steer]))
    yield _row(f"prompt {TAG.strip()}", stories([], TAG + prompt))


def n_generations(sampling: Sampling) -> int:
    """How often `measure` will call `on_done`."""
    return (3 + N_RANDOM) * sampling.samples


def _row(label: str, stories: Sequence[str]) -> Row:
    found = [corpus.counts(story)[KIND] for story in stories]
    parsed = [corpus.parsed_sentences(story) for story in stories]
    return Row(
        label,
        ratio([words[VALUE] for words in found], [sum(words.values()) for words in found]),
        ratio([good for good, _ in parsed], [count for _, count in parsed]),
    )
