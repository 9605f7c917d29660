"""Contrasting stories drawn from the pocket grammar: `python -m steer.pocket.pairs mood joyful
gloomy` prints the pairs of examples/contrasts/joyful.jsonl; with a number and a seed, such as
`60 8`, as many others."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator

from . import corpus
from .corpus import Tags

#: What the demonstration shows: an attribute, a value, and the value that it is led away from.
KIND, VALUE, AWAY_FROM = "mood", "joyful", "gloomy"

N_PAIRS = 100
SEED = 7


def story_pairs(
    kind: str, positive: str, negative: str, n: int = N_PAIRS, seed: int = SEED
) -> Iterator[dict[str, str]]:
    """Pairs of stories that differ in one attribute, `kind`; the others are drawn anew each time.

    The stories of a pair share their attributes but for `kind`, and nothing else.

    Raises:
        ValueError: an attribute or value that the grammar does not have.
    """
    rng = random.Random(f"{kind}:{positive}:{negative}:{seed}")
    for _ in range(n):
        shared = Tags().draw(rng)
        sides = {}
        for side, value in (("positive", positive), ("negative", negative)):
            tags = Tags(**(shared | {kind: value}))
            sides[side] = corpus.sample(rng, tags=tags, form="story").body.strip()
        yield sides


if __name__ == "__main__":
    kind, positive, negative, *numbers = sys.argv[1:]
    for pair in story_pairs(kind, positive, negative, *map(int, numbers)):
        sys.stdout.write(json.dumps(pair) + "\n")
