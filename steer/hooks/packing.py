"""Pack passages with common prefixes into rows, so that shared tokens run once. No torch.

Passages with common prefixes form a tree: a system prompt, then a pair's own prompt, then two
endings. A row holds such a tree with each token once; a token attends to those on its path from the
root, and its position is its depth. So every passage gets the same activations as in a row of its
own, in one forward and without a cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from steer.contrasts.reading import Reading

#: A row of n tokens costs about n + n^2 / (ATTENTION d_model) times as much as one token.
ATTENTION = 2
#: Packing is used only if it saves this share of the tokens, since it has a cost of its own.
LEAST_SAVED = 0.05


#: Readings by index: all of them, or those of a batch.
ByNumber: TypeAlias = "Sequence[Reading] | Mapping[int, Reading]"


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Readings that are packed into one row.

    readings: their indices, each after the one whose prefix it shares. shared: the length of each
    one's common prefix with the one before it. length: the number of tokens, shared ones once.
    """

    readings: tuple[int, ...]
    shared: tuple[int, ...]
    length: int


class Layout(NamedTuple):
    """The tokens of rows, padded on the right.

    ids, positions: int64 [row, longest]. visible: bool [row, longest, longest], whether a token
    (first axis) attends to another (second). paths: for each reading, its row and the columns of
    its tokens, in the order of the rows' readings.
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    visible: NDArray[np.bool_]
    paths: list[tuple[int, NDArray[np.int64]]]


def one_per_row(readings: Sequence[Reading]) -> list[PackedRow]:
    """A row for each reading."""
    return [PackedRow((index,), (0,), len(reading.ids)) for index, reading in enumerate(readings)]


def pack(
    readings: Sequence[Reading],
    d_model: int,
    max_tokens: int,
    window: int | None = None,
    may_share: Callable[[int, int, int], int] = lambda first, second, shared: shared,
) -> list[PackedRow]:
    """Pack readings into rows of at most `max_tokens` (or of one reading); shared tokens run once.

    A reading joins a row if the saved tokens outweigh the attention over a longer row. A reading
    longer than `window`, the smallest attention window of a layer, gets a row of its own, since
    layers would otherwise see different tokens. may_share: gives the number of tokens to share,
    from the indices of two readings and the length of their common prefix.
    """
    keys = [np.asarray(reading.ids, ">u8").tobytes() for reading in readings]
    rows: list[PackedRow] = []
    row = _OpenRow([], [], 0)
    for index in sorted(range(len(keys)), key=keys.__getitem__):
        length = len(keys[index]) // 8
        shared = 0
        if row.readings:
            last = row.readings[-1]
            shared = may_share(last, index, _shared(keys[last], keys[index]))
        new = row.length + length - shared
        longer = (new**2 - row.length**2 - length**2) / (ATTENTION * d_model)
        joins = shared > longer and new <= max_tokens and (window is None or length <= window)
        if not joins:
            if row.readings:
                rows.append(row.done())
            row, shared, new = _OpenRow([], [], 0), 0, length
        row.readings.append(index)
        row.shared.append(shared)
        row.length = new
    if row.readings:
        rows.append(row.done())
    total = sum(map(len, keys)) // 8
    worth = total - sum(row.length for row in rows) >= LEAST_SAVED * total
    return rows if worth else one_per_row(readings)


@dataclass(slots=True)
class _OpenRow:
    readings: list[int]
    shared: list[int]
    length: int

    def done(self) -> PackedRow:
        return PackedRow(tuple(self.readings), tuple(self.shared), self.length)


def _shared(first: bytes, second: bytes) -> int:
    """The length of the common prefix of two strings, in numbers of eight bytes."""
    n = min(len(first), len(second)) // 8
    differ = np.frombuffer(first, ">u8", n) != np.frombuffer(second, ">u8", n)
    return int(differ.argmax()) if differ.any() else n


def batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices by rising length, in batches of at most `max_tokens` with padding (or of one)."""
    divided: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if divided and (len(divided[-1]) + 1) * lengths[index] <= max_tokens:
            divided[-1].append(index)
        else:
            divided.append([index])
    return divided


def halves(row: PackedRow, readings: ByNumber) -> tuple[PackedRow, PackedRow]:
    """Two rows with half of the readings each; both hold the prefix that the halves share."""
    half = len(row.readings) // 2
    return (
        _part(row, slice(0, half), readings),
        _part(row, slice(half, len(row.readings)), readings),
    )


def _part(row: PackedRow, part: slice, readings: ByNumber) -> PackedRow:
    indices, shared = row.readings[part], (0, *row.shared[part][1:])
    own = (len(readings[i].ids) - n for i, n in zip(indices, shared, strict=True))
    return PackedRow(indices, shared, sum(own))


def layout(rows: Sequence[PackedRow], readings: ByNumber) -> Layout:
    """The tokens of `rows` with their positions and attention."""
    shape = (len(rows), max(row.length for row in rows))
    ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    # Each token attends to itself, so that the softmax of padding is defined.
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
