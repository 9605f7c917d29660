"""Parse texts of the pocket grammar: their derivations, and which sentences are valid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from .grammar import Bindings, Derivation, Part, available, extended, options, parse_template
from .templates import Stage

State = tuple[tuple[Stage, ...], Bindings]
"""Where a text stands between two sentences: the stages to come, and what is bound."""


def _match_parts(
    parts: tuple[Part, ...], text: str, derivation: Derivation
) -> Iterator[Derivation]:
    if not parts or derivation.open:
        yield derivation
        return
    part, start = parts[0], derivation.end
    rest = len(text) - start
    for option in options(part, derivation.bindings):
        surface = part.surface(option.word)
        if text.startswith(surface, start):
            longer = extended(derivation, part, option, start + len(surface))
            yield from _match_parts(parts[1:], text, longer)
        elif rest < len(surface) and surface.startswith(text[start:]):
            yield replace(derivation, end=len(text), open=True)


def derivations(
    stages: tuple[Stage, ...], text: str, derivation: Derivation
) -> Iterator[Derivation]:
    """Every way the stages draw `text` from `derivation.end` on, complete or cut short."""
    if derivation.open or not stages:
        if derivation.end == len(text):
            yield derivation
        return
    stage = stages[0]
    if stage.probability < 1:
        skipped = derivation.log_structure + math.log(1 - stage.probability)
        yield from derivations(stages[1:], text, replace(derivation, log_structure=skipped))
    templates = available(stage, derivation.bindings)
    log_structure = (
        derivation.log_structure + math.log(stage.probability) - math.log(len(templates))
    )
    for template in templates:
        parts = parse_template(template)
        if derivation.end:
            parts = (Part(" "), *parts)
        started = replace(derivation, log_structure=log_structure)
        for matched in _match_parts(parts, text, started):
            yield from derivations(stages[1:], text, matched)


def after_sentence(states: list[State], sentence: str, *, cut: bool = False) -> list[State]:
    """The states in which a text can be after one more sentence, none if it cannot stand there.

    With `cut` the sentence may be the beginning of one.
    """
    return [
        (stages[index + 1 :], matched.bindings)
        for stages, bindings in states
        for index in range(_reach(stages))
        for template in available(stages[index], bindings)
        for matched in _match_parts(parse_template(template), sentence, Derivation(0, bindings))
        if matched.end == len(sentence) and (cut or not matched.open)
    ]


def after_anything(states: list[State]) -> list[State]:
    """The states after a sentence that says nothing, in the place of any that could come next."""
    return [
        (stages[skipped:], bindings)
        for stages, bindings in states
        for skipped in range(_reach(stages) + 1)
    ]


def _reach(stages: tuple[Stage, ...]) -> int:
    """The number of stages that the next sentence may belong to: all up to the first mandatory
    one."""
    certain = (index for index, stage in enumerate(stages, 1) if stage.probability == 1)
    return next(certain, len(stages))
