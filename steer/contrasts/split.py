"""Hold out some records of a file, with all their near-duplicates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from steer.base.errors import InputError, UsageError
from steer.contrasts.duplicates import near_duplicates
from steer.contrasts.records import Record
from steer.contrasts.schema import Names

#: From this many different prompts on, records with the same prompt stay together.
ENOUGH_PROMPTS = 10


def split(
    records: Sequence[Record], share: float, *, seed: int = 0, names: Names | None = None
) -> tuple[list[Any], list[Any]]:
    """Divide records into those to make a vector from and those to hold out, keeping their order.

    share: the fraction to hold out; the held-out part is at most that, and nearly as much.
    Near-duplicates (`steer.contrasts.duplicates`) stay together, also by way of others, and so do
    records with the same prompt if there are at least `ENOUGH_PROMPTS` prompts. The same records,
    share and seed give the same parts.

    Raises:
        UsageError: the share is not between 0 and 1.
        InputError: one object holds everything, or the records are too similar to be divided.
    """
    if not 0 < share < 1:
        raise UsageError("--held-out is a share between 0 and 1", hint="0.25 is a quarter")
    names = names or Names()
    for where, record in records:
        if names.shape(where, record) in ("sets", "conditions") and len(records) == 1:
            raise InputError(
                f"{where}: the file is one object, which cannot be divided",
                hint="write a record a line, such as a pair or a text with its label",
            )
    groups = _groups(records, names)
    size = round(share * len(records))
    held: set[int] = set()
    for number in np.random.default_rng(seed).permutation(len(groups)):
        if len(held) + len(groups[number]) <= size:
            held.update(groups[number])
    if not held or len(held) == len(records):
        raise InputError(
            f"{len(records)} records, of which {len(groups)} differ from all others, cannot be"
            f" divided with {share:.0%} held out",
            hint="add records that differ, or hold out another share",
        )
    parts: tuple[list[Any], list[Any]] = ([], [])
    for index, (_, record) in enumerate(records):
        parts[index in held].append(record)
    return parts


def without_held_out(records: Sequence[Record], share: float, names: Names) -> list[Record]:
    """The records that `split` with its usual seed leaves to make a vector from.

    Raises:
        UsageError, InputError: as `split`.
    """
    kept = {id(record) for record in split(records, share, names=names)[0]}
    return [(where, record) for where, record in records if id(record) in kept]


def _groups(records: Sequence[Record], names: Names) -> list[list[int]]:
    """Groups of records, by index, that have to stay together, in the order of their first."""
    first = list(range(len(records)))

    def root(index: int) -> int:
        while first[index] != index:
            first[index] = first[first[index]]
            index = first[index]
        return index

    def join(a: int, b: int) -> None:
        a, b = sorted((root(a), root(b)))
        first[b] = a

    for a, b in near_duplicates([" ".join(_texts(record)) for _, record in records]):
        join(a, b)
    same: dict[Hashable, list[int]] = defaultdict(list)
    for index, (_, record) in enumerate(records):
        key = names.key(record, "prompt") if isinstance(record, dict) else None
        if key is not None and record[key]:
            same[str(record[key])].append(index)
    if len(same) >= ENOUGH_PROMPTS:
        for indices in same.values():
            for index in indices[1:]:
                join(indices[0], index)
    groups: dict[int, list[int]] = defaultdict(list)
    for index in range(len(records)):
        groups[root(index)].append(index)
    return list(groups.values())


def _texts(value: Any) -> Iterator[str]:
    """All texts in a record, without the roles of messages."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name != "role":
                yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
