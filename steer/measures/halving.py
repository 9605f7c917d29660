"""Which rows of a large grid are scored on everything: successive halving.

All rows are scored on every so manieth text, the better half on twice as many, and so on until few
are left, which are scored on all. What was scored counts on: no text is scored twice under a cell.
Jamieson & Talwalkar 2016 (arXiv 1502.07943, algorithm 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from steer.measures.grids import Grid, reach

#: Rows that are worth all texts whatever a first look says, so that few layers stay whole.
WHOLE_ROWS = 8
#: Texts that a first look has at least.
FEWEST = 12

Indices = NDArray[np.int64]


def strides(n_rows: int, n_texts: int) -> tuple[int, ...]:
    """Of the texts, each so manieth: falling powers of two down to 1, which is all of them."""
    halvings = math.ceil(math.log2(max(n_rows / WHOLE_ROWS, 1)))
    looks = int(math.log2(max(n_texts / FEWEST, 1)))
    return tuple(2**power for power in reversed(range(min(halvings, looks) + 1)))


def added(n: int, stride: int, most: int) -> Indices:
    """Numbers of n texts that a stride adds to those of twice the stride; `most` is the first."""
    every = np.arange(0, n, stride)
    return every if stride == most else every[every % (2 * stride) != 0]


def n_kept(n_rows: int) -> int:
    """How many rows go on."""
    return max(min(n_rows, WHOLE_ROWS), math.ceil(n_rows / 2))


def better_half(grid: Grid, rows: Sequence[int], max_kl: float) -> list[int]:
    """Of these rows those that do most within the budget by what is scored, in their order."""
    most = reach(*grid.looks(), max_kl)
    kept = sorted(rows, key=lambda row: -float(most[row]))[: n_kept(len(rows))]
    return sorted(kept)
