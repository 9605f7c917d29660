"""What methods are compared on: conditions, and texts that know nothing of them. No torch."""

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

#: Stories that vectors are made from.
STORIES = 96
#: Fewer texts make no vector that is worth a comparison.
FEWEST = 10


@dataclass(frozen=True, slots=True)
class Subject:
    """A condition. prompts: what begins the texts that are measured; openings: those that the
    distilled edit learns from. grammar: the value of pocket's grammar whose words say how well the
    condition is met.
    """

    name: str
    condition: str
    prompts: tuple[str, ...]
    openings: tuple[str, ...]
    grammar: str | None = None


def of_pocket(values: Sequence[str] = ()) -> list[Subject]:
    """The tags of the pocket grammar, or those of some values.

    Raises:
        UsageError: the grammar has no such value.
    """
    kinds = {value: kind for kind, every in corpus.KINDS.items() for value in every}
    for value in values:
        if value not in kinds:
            raise UsageError(f"the grammar knows no {value!r}", hint=f"it knows {listed(kinds)}")
    prompts = tuple(f"One day {hero} woke up." for hero in HEROES[:12])
    return [
        Subject(value, f"[{kinds[value]}: {value}]", prompts, OPENINGS, value)
        for value in values or kinds
    ]


def of_conditions(conditions: Sequence[str], prompts: Sequence[str]) -> list[Subject]:
    """Conditions of any model."""
    return [Subject(one, one, tuple(prompts), tuple(prompts)) for one in conditions]


def stories(n: int = STORIES) -> tuple[str, ...]:
    """Stories of the pocket grammar, of any mood, style and topic, without tags."""
    rng = random.Random("suite")
    drawn = (corpus.sample(rng, tags=Tags(), form="story").body.strip() for _ in range(n))
    return unlike(tuple(drawn))


def unlike(texts: Sequence[str]) -> tuple[str, ...]:
    """The texts without those that are empty or there already.

    Raises:
        UsageError: too few.
    """
    found = tuple(dict.fromkeys(text for text in texts if text.strip()))
    if len(found) < FEWEST:
        raise UsageError(f"{len(found)} texts are too few", hint=f"{FEWEST} would do")
    return found
