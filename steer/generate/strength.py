"""How strongly a vector can be added: up to where the texts written under it fall apart.

The one rule by which `steer extract`, `steer make` and `steer pack build` choose a strength.
Strength 1 adds the vector once in all: at each of n layers, 1/n of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from steer.generate.cost import STRAINED_NATS
from steer.vectors.vector import SteeringVector

#: The upper middle of a model, as shares of its depth: there a vector did most for what it cost
#: (docs/evidence.md, "The best layers for a chat vector").
MIDDLE = (0.45, 0.9)
#: Extra nats per token that texts may cost, which is about what texts cost that a system message
#: asked for (docs/evidence.md), and by how much their share of different bigrams may fall.
MOST_NATS, MOST_REPEATED = STRAINED_NATS, 0.15


def is_coherent(
    extra_nats: float, repeated: float, *, allowed: float = 0.0, most: float = MOST_NATS
) -> bool:
    """Whether steered texts are still the model's language.

    extra_nats: how many nats per token more they cost the unsteered model than its own texts.
    repeated: by how much their share of different bigrams is lower. allowed: extra nats per token
    of texts that a prompt asks for, where they are known. most: extra nats per token besides.
    """
    return extra_nats <= max(0.0, allowed) + most and repeated <= MOST_REPEATED


def strongest(coherent: Sequence[bool]) -> int | None:
    """The index of the last of rising strengths before texts fall apart; None if all do."""
    n = len(list(takewhile(bool, coherent)))
    return n - 1 if n else None


def middle_layers(vector: SteeringVector) -> tuple[int, ...]:
    """The stored layers in the upper middle of the model; all if none is there, if few are stored,
    or if the vector has heads or experts, which were chosen at their own layers."""
    metadata = vector.metadata
    low, high = (share * metadata.model.n_layers for share in MIDDLE)
    middle = tuple(layer for layer in metadata.layers if low <= layer < high)
    has_most = len(metadata.layers) >= metadata.model.n_layers / 2
    return middle if middle and has_most and metadata.parts is None else metadata.layers


def divided(
    vector: SteeringVector, strengths: Sequence[float], layers: Sequence[int]
) -> list[float]:
    """The coefficient at each layer of each strength. Heads and experts are not divided: each was
    chosen for what it does by itself."""
    share = len(layers) if vector.metadata.parts is None else 1
    return [float(f"{strength / share:.3g}") for strength in strengths]
