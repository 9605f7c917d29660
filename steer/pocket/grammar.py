"""The engine of the pocket grammar: draws texts from stages, with all alternatives at each choice.

`parser` uses the same `options`, so it recognises exactly the texts that can be drawn. A derivation
keeps the log-probability of its structure apart from the values of its markers, so that the
probability of a text under any mood, style and topic follows without parsing again.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

from .lexicon import FRIENDS, HE, HEROES, KINDS, MARKERS, NEUTRAL, OWN_SHARE, split
from .requests import tools
from .templates import Stage

Bindings = Mapping[str, str]
"""What the text has introduced so far: hero, place, thing, or a request's act."""

Draws = tuple[tuple[str, str], ...]
"""The (kind, value) of each marker drawn, in the order of the text."""

PRONOUNS: dict[str, tuple[str, str]] = {
    "he": ("she", "he"),
    "him": ("her", "him"),
    "his": ("her", "his"),
}
NAMES = {"hero": HEROES, "friend": FRIENDS}
REMEMBERED = ("hero", "place", "thing", "verb", "person", "object")


@dataclass(frozen=True)
class Option:
    """One filling of a slot. `log_share` is its log-probability given its value."""

    word: str
    log_share: float
    draw: Draws = ()


@dataclass(frozen=True)
class Part:
    """A piece of a template: literal text where `slot` is empty, else a slot and its marks."""

    literal: str = ""
    slot: str = ""
    article: bool = False
    capital: bool = False
    introduces: bool = False

    def surface(self, word: str) -> str:
        """The word as it stands in the text."""
        if self.article:
            word = f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
        return word[0].upper() + word[1:] if self.capital else word


@dataclass(frozen=True)
class Derivation:
    """One way to draw a text. `open` says that the text ended before the grammar did."""

    end: int
    bindings: Bindings
    log_structure: float = 0.0
    draws: Draws = ()
    open: bool = False

    def log_prob(self, latent: Bindings) -> float:
        """Nats, under a text whose value of each kind is `latent`."""
        return self.log_structure + sum(
            math.log(value_share(kind, value, latent[kind])) for kind, value in self.draws
        )


def value_share(kind: str, value: str, own: str) -> float:
    """The share of markers of `kind` with the value `value`, in a text whose value is `own`."""
    share = OWN_SHARE[kind]
    return share if value == own else (1 - share) / (len(KINDS[kind]) - 1)


@dataclass(frozen=True)
class Fork:
    """A place in a drawn text where the grammar had a choice.

    `at` is the first character of what was chosen, or the space before it. Where `part` is None a
    sentence of the stages `ahead` begins there, or the text ends; else `option` fills the part.
    """

    at: int
    bindings: Bindings
    part: Part | None = None
    option: Option | None = None
    ahead: tuple[Stage, ...] = ()


@cache
def parse_template(template: str) -> tuple[Part, ...]:
    """Split a template into its parts."""
    parts = []
    for literal, slot in re.findall(r"([^{}]+)|\{([^{}]+)\}", template):
        name = slot.split(":")[-1].lstrip("^+")
        marks = slot.removesuffix(name)
        parts.append(Part(literal, name, "a:" in marks, "^" in marks, "+" in marks))
    return tuple(parts)


@cache
def marker_options(slot: str) -> tuple[Option, ...]:
    """The fillings of a slot of markers, all values together."""
    return tuple(
        Option(word, -math.log(len(split(words))), ((kind, value),))
        for kind, slots in MARKERS.items()
        if slot in slots
        for value, words in slots[slot].items()
        for word in split(words)
    )


@cache
def value_options(slot: str, value: str) -> tuple[Option, ...]:
    """The fillings of a slot of markers that bear one value."""
    return tuple(choice for choice in marker_options(slot) if choice.draw[0][1] == value)


@cache
def uniform(words: tuple[str, ...]) -> tuple[Option, ...]:
    """Fillings that bear no attribute, all alike."""
    return tuple(Option(word, -math.log(len(words))) for word in words)


@cache
def neutral_options(slot: str) -> tuple[Option, ...]:
    """The fillings of a slot that bears no attribute."""
    return uniform(split(NEUTRAL[slot]))


def options(part: Part, bindings: Bindings) -> tuple[Option, ...]:
    """The fillings of a part where `bindings` is known."""
    slot = part.slot
    if not slot:
        return (Option(part.literal, 0.0),)
    if slot in PRONOUNS:
        if "hero" not in bindings:  # the sentence that names the hero could not be read
            return ()
        return (Option(PRONOUNS[slot][bindings["hero"] in HE], 0.0),)
    if slot in bindings:
        return (Option(bindings[slot], 0.0),)
    if slot in NAMES:
        return uniform(NAMES[slot])
    if slot == "tool":
        return uniform(tools(bindings["verb"]))
    if slot in NEUTRAL:
        return neutral_options(slot)
    return marker_options(slot)


@cache
def _available(templates: tuple[str, ...], known: frozenset[str]) -> tuple[str, ...]:
    def fits(template: str) -> bool:
        return all(
            part.introduces or part.slot not in REMEMBERED or part.slot in known
            for part in parse_template(template)
        )

    return tuple(template for template in templates if fits(template))


def available(stage: Stage, bindings: Bindings) -> tuple[str, ...]:
    """The templates of a stage whose references are bound."""
    return _available(stage.templates, frozenset(bindings))


def extended(derivation: Derivation, part: Part, option: Option, end: int) -> Derivation:
    """The derivation after one more part."""
    bindings = derivation.bindings
    if part.introduces:
        bindings = {**bindings, part.slot: option.word}
    return Derivation(
        end,
        bindings,
        derivation.log_structure + option.log_share,
        derivation.draws + option.draw,
    )


def _draw_option(part: Part, bindings: Bindings, latent: Bindings, rng: random.Random) -> Option:
    choices = options(part, bindings)
    if not choices[0].draw:
        return rng.choice(choices)
    kind = choices[0].draw[0][0]
    weights = [value_share(kind, value, latent[kind]) for value in KINDS[kind]]
    return rng.choice(value_options(part.slot, rng.choices(KINDS[kind], weights)[0]))


def draw(
    stages: tuple[Stage, ...], bindings: Bindings, latent: Bindings, rng: random.Random
) -> tuple[str, Derivation, tuple[Fork, ...]]:
    """Draw a text from the stages: the text, how it was drawn, and where there was a choice."""
    text = ""
    derivation = Derivation(0, bindings)
    forks = [Fork(0, bindings, ahead=stages)]
    for index, stage in enumerate(stages):
        present = rng.random() < stage.probability
        chance = stage.probability if present else 1 - stage.probability
        log_structure = derivation.log_structure + math.log(chance)
        if present:
            templates = available(stage, derivation.bindings)
            log_structure -= math.log(len(templates))
            template = rng.choice(templates)
            text += " " if text else ""
        derivation = replace(derivation, log_structure=log_structure, end=len(text))
        for part in parse_template(template) if present else ():
            option = _draw_option(part, derivation.bindings, latent, rng)
            if part.slot:
                forks.append(Fork(len(text), derivation.bindings, part, option))
            text += part.surface(option.word)
            derivation = extended(derivation, part, option, len(text))
        if present:
            forks.append(Fork(len(text), derivation.bindings, ahead=stages[index + 1 :]))
    return text, derivation, tuple(forks)
