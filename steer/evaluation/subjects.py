"""The subjects of a suite: conditions, and neutral texts to make vectors from. No torch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from steer.base.errors import UsageError
from steer.contrasts.prompts import OPENINGS
from steer.pocket import corpus
from steer.pocket.corpus import Tags
from steer.pocket.lexicon import HEROES
from steer.vectors.sites import listed

#: The number of stories that vectors are made from.
STORIES = 96
#: The fewest texts that a vector is made from.
FEWEST = 10


@dataclass(frozen=True, slots=True)
class Subject:
    """A condition to compare methods on.

    prompts: the beginnings of the texts to measure. openings: the beginnings of the texts that
    distillation learns from. grammar: the value in pocket's grammar whose words measure the
    condition.
    """

    name: str
    condition: str
    prompts: tuple[str, ...]
    openings: tuple[str, ...]
    grammar: str | None = None


def pocket_subjects(values: Sequence[str] = ()) -> list[Subject]:
    """A subject for each value of pocket's grammar, or for the given values.

    Raises:
        UsageError: the grammar has no such value.
    """
    kinds = {value: kind for kind, every in corpus.KINDS.items() for value in every}
    for value in values:
        if value not in kinds:
            raise UsageError(f"the grammar has no {value!r}", hint=f"it has {listed(kinds)}")
    prompts = tuple(f"One day {hero} woke up." for hero in HEROES[:12])
    return [
        Subject(value, f"[{kinds[value]}: {value}]", prompts, OPENINGS, value)
        for value in values or kinds
    ]


def condition_subjects(conditions: Sequence[str], prompts: Sequence[str]) -> list[Subject]:
    """A subject for each condition, for any model."""
    return [Subject(text, text, tuple(prompts), tuple(prompts)) for text in conditions]


def stories(n: int = STORIES) -> tuple[str, ...]:
    """Stories of the pocket grammar, of any mood, style and topic, without tags."""
    rng = random.Random("suite")
    drawn = (corpus.sample(rng, tags=Tags(), form="story").body.strip() for _ in range(n))
    return distinct_texts(tuple(drawn))


def distinct_texts(texts: Sequence[str]) -> tuple[str, ...]:
    """The texts without empty ones and repeats.

    Raises:
        UsageError: there are too few.
    """
    different = tuple(dict.fromkeys(text for text in texts if text.strip()))
    if len(different) < FEWEST:
        raise UsageError(f"{len(different)} texts are too few", hint=f"give at least {FEWEST}")
    return different
