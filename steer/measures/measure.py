"""What a measure is, and what it is computed from.

A measure is one object, `Measure`, which holds its name, title, unit, format and formula. Which
there are, `steer.measures.registry` says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from steer.base.intervals import Interval, ratio

Array = NDArray[np.float64]
#: How a row of an evaluation was steered.
Kind = Literal["unsteered", "vector", "opposite", "random", "prompt", "guidance"]
#: Two numbers of each text: a measure's numerators and denominators, [text] each.
Columns = tuple[Array, Array]


@dataclass(frozen=True)
class Observations:
    """What was observed of one row of an evaluation: what a measure is computed from.

    A row has one cell, or several (random directions), each of which wrote some of the texts.

    preferences: log p(positive ending) - log p(negative ending), in nats, [cell, pair]; None
    without pairs. endings: whether pairs are two endings of one prompt. divergences: KL(p_condition
    || p_row) summed over each text of the condition, in nats, [cell, text]; None without one.
    drifts: KL(p_base || p_row) summed over each unrelated text, in nats, [cell, text], of
    `drift_tokens` [text] tokens. texts: what was written, and `tokens`: its token ids. nats: what
    each written text was expected to cost the unsteered model, and its number of tokens. concept:
    how far each shows the concept, and of how much; None without one. starts: the number of each
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
        """Columns of the texts, [text]; of several cells their sums, [cell, 1]: each cell has texts
        of its own, so their noise is in the sums."""
        if len(self.starts) == 1:
            return columns
        first, second = (np.add.reduceat(one, self.starts)[:, None] for one in columns)
        return first, second

    def mean_of_texts(self, value: Callable[[str], float]) -> Interval:
        """Mean of a number that each written text has."""
        numbers = np.array([float(value(text)) for text in self.texts])
        return ratio(*self.by_cell((numbers, np.ones(len(numbers)))))


@dataclass(frozen=True)
class Baselines:
    """What a row is compared with. prompt: the condition as a prompt, where there is one."""

    unsteered: Observations
    prompt: Observations | None = None


#: The number of a row, or None where it does not apply.
Compute = Callable[[Observations, Baselines], Interval | None]


@dataclass(frozen=True, slots=True)
class Measure:
    """A number that an evaluation gives every row.

    name: its key in JSON. title: heads its column. unit: such as `nats per token`; `share` is from
    0 to 1. format: how a number is shown, such as `{:.2f}`. meaning: one line for the reader of a
    table. compute: the formula.
    """

    name: str
    title: str
    unit: str
    format: str
    meaning: str
    compute: Compute

    def shown(self, interval: Interval) -> str:
        """`0.50 [0.40, 0.60]`."""
        value, low, high = map(self.format.format, (interval.value, interval.low, interval.high))
        return f"{value} [{low}, {high}]"


def cut(*every: Columns) -> Sequence[Columns]:
    """Columns of the texts that all have, which were drawn with the same random numbers."""
    n = min(len(one[0]) for one in every)
    return [(one[0][:n], one[1][:n]) for one in every]
