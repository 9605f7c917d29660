"""`Measure`, and the observations that it is computed from.

A measure is one object with its name, title, unit, format and formula. `steer.measures.registry`
lists them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from steer.base.extensions import Extension
from steer.base.intervals import Interval, ratio

Array = NDArray[np.float64]
#: The kinds of rows in an evaluation.
Kind = Literal["unsteered", "vector", "opposite", "random", "prompt", "guidance"]
#: A measure's numerators and denominators, [text] each.
Columns = tuple[Array, Array]


@dataclass(frozen=True)
class Observations:
    """The observations of one row of an evaluation, from which measures are computed.

    A row has one cell, or several (random directions), each of which generated some of the texts.

    preferences: log p(positive ending) - log p(negative ending), in nats, [cell, pair]; None
    without pairs. endings: whether pairs are two endings of one prompt. divergences: KL(p_condition
    || p_row) summed over each text of the condition, in nats, [cell, text]; None without a
    condition. drifts: KL(p_base || p_row) summed over each unrelated text, in nats, [cell, text],
    with `drift_tokens` [text]. texts: the generated texts, and `tokens`: their token ids. nats: the
    extra nats of each generated text under the unsteered model, and its number of tokens. concept:
    the judge's numerators and denominators; None without a concept. starts: the index of each
    cell's first text.
    """

    kind: Kind
    preferences: Array | None
    endings: bool
    divergences: Array | None
    drifts: Array
    drift_tokens: Array
    texts: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    nats: Columns
    concept: Columns | None
    starts: tuple[int, ...] = (0,)

    def by_cell(self, columns: Columns) -> Columns:
        """The columns [text]; for several cells, their sums over each cell's texts, [cell, 1], so
        that an interval covers the differences between cells."""
        if len(self.starts) == 1:
            return columns
        first, second = (np.add.reduceat(column, self.starts)[:, None] for column in columns)
        return first, second

    def mean_of_texts(self, value: Callable[[str], float]) -> Interval:
        """The mean of `value` over the generated texts."""
        numbers = np.array([float(value(text)) for text in self.texts])
        return ratio(*self.by_cell((numbers, np.ones(len(numbers)))))


@dataclass(frozen=True)
class Baselines:
    """The rows that others are compared with. prompt: the condition as a prompt, or None."""

    unsteered: Observations
    prompt: Observations | None = None


#: Computes a row's value; None where the measure does not apply.
Compute = Callable[[Observations, Baselines], Interval | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure(Extension):
    """A number that an evaluation computes for every row.

    name: its key in JSON. title: the heading of its column. unit: such as `nats per token`; `share`
    is from 0 to 1. format: how to show a number, such as `{:.2f}`. meaning: one line for the reader
    of a table. compute: the formula.
    """

    unit: str
    format: str
    meaning: str
    compute: Compute

    def shown(self, interval: Interval) -> str:
        """`0.50 [0.40, 0.60]`."""
        value, low, high = map(self.format.format, (interval.value, interval.low, interval.high))
        return f"{value} [{low}, {high}]"


def cut(*every: Columns) -> Sequence[Columns]:
    """The columns cut to the texts that all rows have, which were generated from the same seeds."""
    n = min(len(tops) for tops, _ in every)
    return [(tops[:n], bottoms[:n]) for tops, bottoms in every]
