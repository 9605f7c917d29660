"""Tags state attributes before a text: `[mood: joyful; topic: sea]`, any subset, any order."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from .lexicon import KINDS

_TAG = re.compile(r"\[([^\[\]]*)\] ?")


@dataclass(frozen=True)
class Tags:
    """The attributes that are stated; None is left open, and then drawn uniformly."""

    mood: str | None = None
    style: str | None = None
    topic: str | None = None

    def __post_init__(self) -> None:
        for kind, value in self.stated().items():
            if value not in KINDS[kind]:
                raise ValueError(f"{value!r} is no {kind}; there are {', '.join(KINDS[kind])}")

    def stated(self) -> dict[str, str]:
        """The stated attributes, kind to value."""
        values = {kind: getattr(self, kind) for kind in KINDS}
        return {kind: value for kind, value in values.items() if value is not None}

    def render(self, order: tuple[str, ...] = tuple(KINDS)) -> str:
        """The tag as text, without a space after it; empty if nothing is stated."""
        stated = self.stated()
        inside = "; ".join(f"{kind}: {stated[kind]}" for kind in order if kind in stated)
        return f"[{inside}]" if inside else ""

    def latents(self) -> Iterator[dict[str, str]]:
        """Every full set of attributes that the tags allow; all are equally likely."""
        stated = self.stated()
        choices = [(stated[kind],) if kind in stated else KINDS[kind] for kind in KINDS]
        return (dict(zip(KINDS, values, strict=True)) for values in product(*choices))

    def draw(self, rng: random.Random) -> dict[str, str]:
        """One full set of attributes, the open ones drawn."""
        stated = self.stated()
        return {kind: stated.get(kind) or rng.choice(values) for kind, values in KINDS.items()}


def split_tags(text: str) -> tuple[Tags, str]:
    """The tags that a text begins with, and the text after them; no tags if they do not read."""
    match = _TAG.match(text)
    if not match:
        return Tags(), text
    pairs = [tuple(pair.split(": ", 1)) for pair in match[1].split("; ")]
    stated = {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and pair[1]}
    known = all(value in KINDS.get(kind, ()) for kind, value in stated.items())
    if not known or len(stated) != len(pairs):
        return Tags(), text
    return Tags(**stated), text[match.end() :]
