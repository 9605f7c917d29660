"""The baselines of a steer: random directions, and its own opposite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from steer.steering.operation import Coefficient
from steer.steering.steers import Steer
from steer.vectors.vector import Directions

#: The number of random directions that a vector has to beat.
N_RANDOM = 5
#: The number of random directions that estimate the effect of chance, and the significance level.
N_CHANCE, LEVEL = 20, 0.05
_STREAM = 0x5EED


def random_direction(steer: Steer, seed: int) -> Steer:
    """The same steer with each layer's vector replaced by a random direction of the same length.

    In a low-rank edit each column of `up` is replaced likewise, and in a learned token its step
    from one coefficient to the next. The op, its value, the scope, the schedule and the gate stay.
    """
    # A random stream of its own, so that it never repeats a vector that was drawn with `seed`.
    rng = np.random.default_rng([seed, _STREAM])
    vector = steer.vector
    up = None if vector.up is None else _random_rows(rng, vector.up, axis=1)
    directions = _random_rows(rng, vector.directions, axis=1)
    return replace(steer, vector=replace(vector, directions=directions, up=up))


def reach_of_chance(effects: Sequence[float], n_places: int) -> float:
    """The effect that another random direction exceeds at the best of `n_places` cells with a
    probability of at most `LEVEL`. effects: of random directions.

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


def _random_rows(rng: np.random.Generator, rows: Directions, axis: int) -> Directions:
    """Random directions with the lengths of the vectors along `axis`."""
    drawn = rng.normal(size=rows.shape)
    # Parts that are 0, such as unused heads or experts, stay 0.
    drawn[(rows == 0) & rows.any(axis=axis, keepdims=True)] = 0
    lengths = np.linalg.norm(rows, axis=axis, keepdims=True)
    turned = drawn / np.linalg.norm(drawn, axis=axis, keepdims=True) * lengths
    return np.asarray(turned, dtype=np.float32)
