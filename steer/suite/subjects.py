"""What methods are compared on: conditions, and texts that know nothing of them. No torch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from steer.errors import UsageError
from steer.pocket import corpus
from steer.pocket.corpus import Tags
from steer.pocket.lexicon import HEROES
from steer.sites import listed

#: Texts to make vectors from, to choose the layer and the coefficient by, and to measure on.
MADE_FROM, CHOSEN_BY, MEASURED_ON = 96, 32, 32


@dataclass(frozen=True, slots=True)
class Texts:
    """Three sets of texts that share none."""

    made_from: tuple[str, ...]
    chosen_by: tuple[str, ...]
    measured_on: tuple[str, ...]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Texts:
        """Texts in turn, as many to measure on as to choose by.

        Raises:
            UsageError: too few.
        """
        unlike = list(dict.fromkeys(text for text in texts if text.strip()))
        n = min(CHOSEN_BY, len(unlike) // 5)
        if n < 2:
            raise UsageError(f"{len(unlike)} texts are too few", hint="ten would do")
        made_from = unlike[2 * n : 2 * n + MADE_FROM]
        return cls(tuple(made_from), tuple(unlike[:n]), tuple(unlike[n : 2 * n]))


@dataclass(frozen=True, slots=True)
class Subject:
    """A condition. grammar: the value of pocket's grammar whose words say how well it is met.

    distilled: whether the costliest method is tried too.
    """

    name: str
    condition: str
    prompts: tuple[str, ...]
    grammar: str | None = None
    distilled: bool = True


def of_pocket(values: Sequence[str] = ()) -> list[Subject]:
    """The tags of the pocket grammar, or those of some values; the first of a kind is distilled.

    Raises:
        UsageError: the grammar has no such value.
    """
    kinds = {value: kind for kind, every in corpus.KINDS.items() for value in every}
    for value in values:
        if value not in kinds:
            raise UsageError(f"the grammar knows no {value!r}", hint=f"it knows {listed(kinds)}")
    chosen = list(values) or list(kinds)
    first = {kinds[value]: value for value in reversed(chosen)}
    prompts = tuple(f"One day {hero} woke up." for hero in HEROES[:12])
    return [
        Subject(value, f"[{kinds[value]}: {value}]", prompts, value, first[kinds[value]] == value)
        for value in chosen
    ]


def of_conditions(conditions: Sequence[str], prompts: Sequence[str]) -> list[Subject]:
    """Conditions of any model."""
    return [Subject(condition, condition, tuple(prompts)) for condition in conditions]


def stories(seed: int = 0) -> Texts:
    """Stories of the pocket grammar, of any mood, style and topic, without tags."""
    rng = random.Random(f"suite:{seed}")
    n = MADE_FROM + CHOSEN_BY + MEASURED_ON
    drawn = (corpus.sample(rng, tags=Tags(), form="story").body.strip() for _ in range(n))
    return Texts.of(tuple(drawn))
