"""Extra nats: how much less likely steered texts are to the unsteered model than its own.

    E_x~steered mean_t H(p_steered(. | x_<t), p_base(. | x_<t))
        - E_x~base mean_t H(p_base(. | x_<t)),            H(p, q) = -sum_v p(v) log q(v)

per token of texts that were sampled at temperature 1. The mean of -log p_base(x_t) has the same
expectation, with the noise of the one token that was drawn at each position; the cross-entropy
averages over all that could have been (Rao-Blackwell).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from steer.base.intervals import Interval, difference
from steer.evaluation.batches import Text, surprise
from steer.evaluation.scoring import Cell, score
from steer.models.model import Model

Array = NDArray[np.float64]

#: Of each text, what its tokens were expected to cost, and how many they are.
Nats = tuple[Array, Array]


def expected_nats(model: Model, texts: Sequence[Text], cell: Cell) -> Nats:
    """Cross-entropies summed over the scored tokens of texts that were written under `cell`."""
    counts = np.array([float(len(text.scored)) for text in texts])
    return score(model, texts, [cell], surprise, allow_idle=True)[0], counts


def extra(own: Nats, base: Nats) -> Interval:
    """Nats per token more than the unsteered model's own texts have, with its interval.

    Texts of one number were drawn with the same random numbers, and are resampled together.
    """
    # The condition's texts may be fewer: one that has no token to learn from is left out.
    n = min(len(own[0]), len(base[0]))
    return difference((own[0][:n], own[1][:n]), (base[0][:n], base[1][:n]))
