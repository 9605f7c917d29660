"""What a steer is held against: directions that mean nothing, and its own opposite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from steer.steering.operation import Coefficient
from steer.steering.steers import Steer
from steer.vectors.vector import Directions, SteeringVector

#: Random directions that a vector has to beat.
N_RANDOM = 5
#: Random directions that tell how far chance goes, and how often what means nothing may go further.
N_CHANCE, LEVEL = 20, 0.05
_STREAM = 0x5EED


def random_direction(steer: Steer, seed: int) -> Steer:
    """The same steer with each layer's vector turned to a random direction of its length.

    Of a low-rank edit, what it adds to an activation is turned likewise, column by column of `up`.
    The op, with its level, scope, schedule and gate are those of the steer.
    """
    # A stream of its own: a vector that was itself drawn with `seed` is not met again.
    rng = np.random.default_rng([seed, _STREAM])
    vector = steer.vector
    up = None if vector.up is None else _turned(rng, vector.up, axis=1)
    directions = _turned(rng, vector.directions, axis=1)
    return replace(steer, vector=SteeringVector(vector.metadata, directions, vector.down, up))


def reach_of_chance(effects: Sequence[float], n_places: int) -> float:
    """What one more direction like these, tried at `n_places` and taken where it does most, does
    with a probability of `LEVEL` at most.

    A direction's effect is near to a sum over its many components, and so to a normal number:
    Student's prediction interval of one more, with Bonferroni's share of `LEVEL` for each place.
    """
    from scipy.special import stdtrit

    found = np.asarray(effects, float)
    n = len(found)
    quantile = float(stdtrit(n - 1, 1 - LEVEL / n_places))
    return float(found.mean() + quantile * found.std(ddof=1) * np.sqrt(1 + 1 / n))


def opposite(steer: Steer) -> Steer:
    """The same steer with its coefficient's sign turned; for ops that are signed."""
    coefficient = steer.coefficient
    return replace(steer, coefficient=Coefficient(-coefficient.value, coefficient.unit))


def _turned(rng: np.random.Generator, rows: Directions, axis: int) -> Directions:
    """Random vectors as long as those along `axis`."""
    drawn = rng.normal(size=rows.shape)
    lengths = np.linalg.norm(rows, axis=axis, keepdims=True)
    turned = drawn / np.linalg.norm(drawn, axis=axis, keepdims=True) * lengths
    return np.asarray(turned, dtype=np.float32)
