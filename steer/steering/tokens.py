"""Learned tokens: embeddings that are used in a prompt like words. `steer.hooks.tokens` runs them.

A steer with a learned token edits no activations. It inserts the token where the condition stood
that the token was learned from: in the system message, or at the start of a plain text. If a prompt
contains `<|name|>`, the token replaces that text instead.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from steer.base.errors import UsageError
from steer.steering.operation import Coefficient
from steer.steering.steers import Steer
from steer.vectors.vector import Directions

#: The first id of learned tokens, above the ids of any vocabulary.
FIRST_ID = 2**60
_MARK = re.compile(r"<\|([^|<>\s]+)\|>")
#: The most embeddings that a token may have.
MAX_EMBEDDINGS = 1024


@dataclass(frozen=True, eq=False)
class LearnedToken:
    """A token and its embeddings, float32 [K, d_model]; K is 0 where the coefficient is 0."""

    name: str
    embeddings: Directions

    @property
    def mark(self) -> str:
        """The token as text in a prompt: `<|name|>`."""
        return mark(self.name)

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """An id for each embedding, derived from the numbers: the same in every run."""
        digest = hashlib.sha256(np.ascontiguousarray(self.embeddings, "<f4").tobytes()).digest()
        first = FIRST_ID + int.from_bytes(digest[:6], "big") * MAX_EMBEDDINGS
        return tuple(range(first, first + len(self.embeddings)))


def mark(name: str) -> str:
    """A token of this name as text in a prompt: `<|name|>`."""
    return f"<|{name}|>"


def marked_names(text: str) -> list[str]:
    """The distinct names that occur in a text as `<|name|>`, in order."""
    return list(dict.fromkeys(_MARK.findall(text)))


def learned(steer: Steer) -> LearnedToken:
    """The learned token of a steer, at its coefficient."""
    value = steer.coefficient.value
    embeddings = steer.vector.embeddings(value)
    return LearnedToken(steer.vector.name, embeddings if value else embeddings[:0])


def separate(steers: Sequence[Steer]) -> tuple[list[LearnedToken], list[Steer]]:
    """Split steers into learned tokens and steers that edit activations.

    Raises:
        UsageError: two tokens have the same name, or a gate reads a prompt that contains a token.
    """
    tokens = [learned(steer) for steer in steers if steer.is_token]
    others = [steer for steer in steers if not steer.is_token]
    names = [token.name for token in tokens]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"the token {name!r} is named twice", hint="name it once")
    gates = [steer.gate for steer in others if steer.gate is not None]
    if tokens and gates:
        raise UsageError(
            f"the gate {gates[0]} reads the prompt, in which the token {names[0]!r} stands",
            hint="leave --when out, or use an edit in place of the token",
        )
    return tokens, others


def absent(steers: Sequence[Steer]) -> list[Steer]:
    """The learned tokens among steers, with the coefficient 0: they remove `<|name|>` from a
    prompt, so that the unsteered text has nothing in its place."""
    return [replace(steer, coefficient=Coefficient(0.0)) for steer in steers if steer.is_token]


def refuse(steers: Sequence[Steer], user: str) -> None:
    """Refuse learned tokens where they cannot be used. user: the subject of the error message.

    Raises:
        UsageError: a steer is a learned token; the message names it.
    """
    for steer in steers:
        if steer.is_token:
            raise UsageError(
                f"{user} cannot use {steer.vector.name!r}: it is a learned token, which belongs in"
                " a prompt and has no direction at a layer",
                hint="use it with apply, chat, eval or serve; `steer bake` adds it to a checkpoint",
            )
