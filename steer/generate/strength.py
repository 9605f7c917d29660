"""How strongly a vector can be added: up to where the texts written under it fall apart.

The one rule by which `steer extract`, `steer make` and `steer pack build` choose a strength.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from steer.generate.cost import STRAINED_NATS

#: Extra nats per token that texts may cost, which is about what texts cost that a system message
#: asked for (docs/evidence.md), and by how much their share of different bigrams may fall.
MOST_NATS, MOST_REPEATED = STRAINED_NATS, 0.15


def is_coherent(extra_nats: float, repeated: float, *, allowed: float = 0.0) -> bool:
    """Whether steered texts are still the model's language.

    extra_nats: how many nats per token more they cost the unsteered model than its own texts.
    repeated: by how much their share of different bigrams is lower. allowed: extra nats per token
    of texts that a prompt asks for, where they are known.
    """
    return extra_nats <= max(0.0, allowed) + MOST_NATS and repeated <= MOST_REPEATED


def strongest(coherent: Sequence[bool]) -> int | None:
    """The index of the last of rising strengths before texts fall apart; None if all do."""
    n = len(list(takewhile(bool, coherent)))
    return n - 1 if n else None
