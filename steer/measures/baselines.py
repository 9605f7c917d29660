"""The baselines of a steer: random directions, and its own opposite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from steer.steering.operation import Coefficient
from steer.steering.steers import Steer
from steer.vectors.vector import Directions, SteeringVector

#: The number of random directions that a vector has to beat.
N_RANDOM = 5
#: The number of random directions that estimate what chance can do, and the significance level.
N_CHANCE, LEVEL = 20, 0.05
_STREAM = 0x5EED


def random_direction(steer: Steer, seed: int) -> Steer:
    """The same steer with each layer's vector replaced by a random direction of the same length.

    In a low-rank edit each column of `up` is replaced likewise. The op, its value, the scope, the
    schedule and the gate stay.
    """
    # A random stream of its own, so that it never repeats a vector that was drawn with `seed`.
    rng = np.random.default_rng([seed, _STREAM])
    vector = steer.vector
    up = None if vector.up is None else _turned(rng, vector.up, axis=1)
    directions = _turned(rng, vector.directions, axis=1)
    return replace(steer, vector=SteeringVector(vector.metadata, directions, vector.down, up))


def reach_of_chance(effects: Sequence[float], n_places: int) -> float:
    """The effect that another random direction, at the best of `n_places` cells, exceeds with a
    probability of at most `LEVEL`. effects: those of random directions.

    The effect of a random direction is nearly a sum over its many components, and so nearly normal.
    This is the upper end of Student's prediction interval, with Bonferroni's correction for
    `n_places`.
    """
    from scipy.special import stdtrit

    values = np.asarray(effects, float)
    n = len(values)
    quantile = float(stdtrit(n - 1, 1 - LEVEL / n_places))
    return float(values.mean() + quantile * values.std(ddof=1) * np.sqrt(1 + 1 / n))


def opposite(steer: Steer) -> Steer:
    """The same steer with the sign of its coefficient reversed; for ops that are signed."""
    coefficient = steer.coefficient
    return replace(steer, coefficient=Coefficient(-coefficient.value, coefficient.unit))


def _turned(rng: np.random.Generator, rows: Directions, axis: int) -> Directions:
    """Random directions with the lengths of the vectors along `axis`."""
    drawn = rng.normal(size=rows.shape)
    # Of some heads or experts only: in the same ones.
    drawn[(rows == 0) & rows.any(axis=axis, keepdims=True)] = 0
    lengths = np.linalg.norm(rows, axis=axis, keepdims=True)
    turned = drawn / np.linalg.norm(drawn, axis=axis, keepdims=True) * lengths
    return np.asarray(turned, dtype=np.float32)
