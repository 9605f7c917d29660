"""Choose how strongly to add a vector: as strongly as its texts stay coherent.

`steer extract`, `steer make` and `steer pack build` all choose by this rule. Strength 1 adds the
vector once in total: 1/n of it at each of n layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from steer.generate.cost import STRAINED_NATS
from steer.vectors.vector import SteeringVector

#: The upper middle of a model, as shares of its depth, where vectors had the largest effect for
#: their cost (docs/evidence.md, "The best layers for a chat vector").
MIDDLE = (0.45, 0.9)
#: The most extra nats per token of coherent texts, about those of texts under a system message
#: (docs/evidence.md), and the most by which their share of different bigrams may be lower.
MOST_NATS, MOST_REPEATED = STRAINED_NATS, 0.15


def is_coherent(
    extra_nats: float, repeated: float, *, allowed: float = 0.0, most: float = MOST_NATS
) -> bool:
    """Whether steered texts are coherent.

    extra_nats: nats per token under the unsteered model, above those of its own texts. repeated: by
    how much their share of different bigrams is lower. allowed: extra nats per token of texts under
    the prompt, if known. most: the most extra nats per token above `allowed`.
    """
    return extra_nats <= max(0.0, allowed) + most and repeated <= MOST_REPEATED


def strongest(coherent: Sequence[bool]) -> int | None:
    """The index of the last coherent one of rising strengths before the first incoherent one; None
    if the first is incoherent."""
    n = len(list(takewhile(bool, coherent)))
    return n - 1 if n else None


def middle_layers(vector: SteeringVector) -> tuple[int, ...]:
    """The stored layers in the upper middle of the model. All stored layers, if none is there, if
    fewer than half of the model's are stored, or if the vector has heads or experts, which were
    chosen at their own layers."""
    metadata = vector.metadata
    low, high = (share * metadata.model.n_layers for share in MIDDLE)
    middle = tuple(layer for layer in metadata.layers if low <= layer < high)
    has_most = len(metadata.layers) >= metadata.model.n_layers / 2
    return middle if middle and has_most and metadata.parts is None else metadata.layers


def coefficients_at(
    vector: SteeringVector, strengths: Sequence[float], layers: Sequence[int]
) -> list[float]:
    """For each strength, the coefficient at each of the layers: the strength divided by their
    number. Heads and experts keep the whole strength, since each was chosen on its own."""
    share = len(layers) if vector.metadata.parts is None else 1
    return [float(f"{strength / share:.3g}") for strength in strengths]
