"""Which readings run together, so that tokens they have in common run once. No tensors of torch.

Readings that begin alike form a tree: a system prompt, then a pair's own prompt, then two endings.
A row holds such a tree, each of its tokens once; a token sees those on its way from the root, and
its position is its depth. So every reading gets the activations that it has alone, in one forward,
with nothing cached and wherever its span begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from steer.contrasts.reading import Reading

#: A row of n tokens costs about n + n^2 / (ATTENTION d_model) times what one token does.
ATTENTION = 2
#: Readings are run apart unless packing saves this share of the tokens: it has a price of its own.
LEAST_SAVED = 0.05


#: Readings by their numbers: all that there are, or those of a batch.
ByNumber: TypeAlias = "Sequence[Reading] | Mapping[int, Reading]"


@dataclass(frozen=True, slots=True)
class Row:
    """Readings that run in one row.

    readings: which ones, each after the one it begins like. shared: of each, how many of its first
    tokens it has in common with the one before it. length: tokens in all, those once.
    """

    readings: tuple[int, ...]
    shared: tuple[int, ...]
    length: int


class Layout(NamedTuple):
    """The tokens of rows, padded on the right.

    ids, positions: int64 [row, longest]. visible: bool [row, longest, longest], which tokens
    (second) each token (first) sees. paths: of each reading, its row and where its tokens stand
    there; in the order of the rows' readings.
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    visible: NDArray[np.bool_]
    paths: list[tuple[int, NDArray[np.int64]]]


def alone(readings: Sequence[Reading]) -> list[Row]:
    """A row for each reading."""
    return [Row((index,), (0,), len(reading.ids)) for index, reading in enumerate(readings)]


def pack(
    readings: Sequence[Reading], d_model: int, max_tokens: int, window: int | None = None
) -> list[Row]:
    """Rows of at most `max_tokens` (or of one reading) that hold what readings share once.

    A reading joins a row when the tokens saved outweigh the attention over a longer row. One that
    is longer than `window`, the fewest tokens that a layer of the model looks back on, stays alone:
    which tokens it sees is then not the same in every layer.
    """
    keys = [np.asarray(reading.ids, ">u4").tobytes() for reading in readings]
    rows: list[Row] = []
    row = _Growing([], [], 0)
    for index in sorted(range(len(keys)), key=keys.__getitem__):
        length = len(keys[index]) // 4
        shared = _shared(keys[row.readings[-1]], keys[index]) if row.readings else 0
        new = row.length + length - shared
        longer = (new**2 - row.length**2 - length**2) / (ATTENTION * d_model)
        joins = shared > longer and new <= max_tokens and (window is None or length <= window)
        if not joins:
            if row.readings:
                rows.append(row.done())
            row, shared, new = _Growing([], [], 0), 0, length
        row.readings.append(index)
        row.shared.append(shared)
        row.length = new
    if row.readings:
        rows.append(row.done())
    total = sum(map(len, keys)) // 4
    worth = total - sum(row.length for row in rows) >= LEAST_SAVED * total
    return rows if worth else alone(readings)


@dataclass(slots=True)
class _Growing:
    readings: list[int]
    shared: list[int]
    length: int

    def done(self) -> Row:
        return Row(tuple(self.readings), tuple(self.shared), self.length)


def _shared(first: bytes, second: bytes) -> int:
    """How many numbers of four bytes two strings begin with in common."""
    n = min(len(first), len(second)) // 4
    differ = np.frombuffer(first, ">u4", n) != np.frombuffer(second, ">u4", n)
    return int(differ.argmax()) if differ.any() else n


def batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices by rising length, in batches of at most `max_tokens` with padding (or of one)."""
    made: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if made and (len(made[-1]) + 1) * lengths[index] <= max_tokens:
            made[-1].append(index)
        else:
            made.append([index])
    return made


def halves(row: Row, readings: ByNumber) -> tuple[Row, Row]:
    """Two rows with half of the readings each; what both halves begin with is then in both."""
    half = len(row.readings) // 2
    return (
        _part(row, slice(0, half), readings),
        _part(row, slice(half, len(row.readings)), readings),
    )


def _part(row: Row, part: slice, readings: ByNumber) -> Row:
    indices, shared = row.readings[part], (0, *row.shared[part][1:])
    own = (len(readings[i].ids) - n for i, n in zip(indices, shared, strict=True))
    return Row(indices, shared, sum(own))


def layout(rows: Sequence[Row], readings: ByNumber) -> Layout:
    """Where the tokens of `rows` stand, and what they see."""
    shape = (len(rows), max(row.length for row in rows))
    ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    # Each sees itself, so that a softmax over what padding sees is of something.
    visible = np.broadcast_to(np.eye(shape[1], dtype=bool), (*shape, shape[1])).copy()
    paths: list[tuple[int, NDArray[np.int64]]] = []
    for number, row in enumerate(rows):
        path, end = np.zeros(0, np.int64), 0
        for index, shared in zip(row.readings, row.shared, strict=True):
            tokens = np.asarray(readings[index].ids, np.int64)
            start, end = end, end + len(tokens) - shared
            ids[number, start:end] = tokens[shared:]
            positions[number, start:end] = np.arange(shared, len(tokens))
            path = np.concatenate([path[:shared], np.arange(start, end)])
            visible[number, start:end, path[:shared]] = True
            visible[number, start:end, start:end] = np.tri(end - start, dtype=bool)
            paths.append((number, path))
    return Layout(ids, positions, visible, paths)
