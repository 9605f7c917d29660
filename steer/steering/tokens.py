"""Learned tokens: embeddings that stand in a prompt like words. Data; `steer.hooks.tokens` runs it.

A steer of a learned token edits no activation. It puts its token where the prompt stood that the
token was made from: into the system message, or at the start of a plain text. Where a prompt has it
written, as `<|name|>`, it stands there instead.
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

#: Ids of learned tokens begin here, above those of any vocabulary.
FIRST_ID = 2**60
_WRITTEN = re.compile(r"<\|([^|<>\s]+)\|>")
#: Embeddings of one token at most.
MOST = 1024


@dataclass(frozen=True, eq=False)
class LearnedToken:
    """A token and its embeddings, float32 [K, d_model]; none where its coefficient is 0."""

    name: str
    embeddings: Directions

    @property
    def mark(self) -> str:
        """How it is written in a prompt."""
        return mark(self.name)

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """An id for each embedding: the same for the same numbers, in every run."""
        digest = hashlib.sha256(np.ascontiguousarray(self.embeddings, "<f4").tobytes()).digest()
        first = FIRST_ID + int.from_bytes(digest[:6], "big") * MOST
        return tuple(range(first, first + len(self.embeddings)))


def mark(name: str) -> str:
    """How a token of this name is written in a prompt: `<|name|>`."""
    return f"<|{name}|>"


def written(text: str) -> list[str]:
    """The names that a text has in the form of a token, `<|name|>`, each once."""
    return list(dict.fromkeys(_WRITTEN.findall(text)))


def learned(steer: Steer) -> LearnedToken:
    """The token of a steer, at its coefficient."""
    value = steer.coefficient.value
    embeddings = steer.vector.embeddings(value)
    return LearnedToken(steer.vector.name, embeddings if value else embeddings[:0])


def separate(steers: Sequence[Steer]) -> tuple[list[LearnedToken], list[Steer]]:
    """The tokens among steers, and the steers that edit activations.

    Raises:
        UsageError: two tokens have one name, or a gate reads prompts in which tokens stand.
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
    """The learned tokens among steers at the coefficient 0: what is written of them in a prompt is
    left out, as nothing is there in an unsteered text."""
    return [replace(one, coefficient=Coefficient(0.0)) for one in steers if one.is_token]


def refuse(steers: Sequence[Steer], who: str) -> None:
    """Refuse learned tokens where they cannot be used. who: what cannot use them.

    Raises:
        UsageError: naming the token.
    """
    for steer in steers:
        if steer.is_token:
            raise UsageError(
                f"{who} cannot use {steer.vector.name!r}: it is a learned token, which stands in a"
                " prompt and is no direction at a layer",
                hint="use it with apply, chat, eval or serve; `steer bake` adds it to a checkpoint",
            )
