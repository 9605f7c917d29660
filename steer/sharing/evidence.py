"""What `steer eval -o` has measured, as a card shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from steer.base.errors import InputError
from steer.base.files import read_bytes
from steer.base.intervals import Interval
from steer.base.strict_json import load_strict_json
from steer.measures.measure import Measure
from steer.measures.registry import measures

_MAX_BYTES = 20_000_000


class _Interval(msgspec.Struct):
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """A table of effect and cost, with its baselines. how: the command that gives it again."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    how: str


def read(path: Path) -> dict[str, Evidence]:
    """The hash of each vector that was measured, with its rows and the baselines.

    Raises:
        InputError: the file is not what `steer eval -o` writes, or a vector changed nothing in it.
    """
    data = read_bytes(path, limit=_MAX_BYTES)
    try:
        told = load_strict_json(data.decode(), str(path))
        vectors = msgspec.convert(told["vectors"], dict[str, str])
        rows = msgspec.convert(told["rows"], list[dict[str, Any]])
        how = msgspec.convert(told["command"], str)
        found = {name: _evidence(name, rows, f"Again: {how}") for name in vectors}
        idle = [name for name in vectors if _is_idle(name, rows)]
    except (KeyError, TypeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise InputError(
            f"{path} is not what `steer eval -o` writes: {error}", hint="measure again with it"
        ) from None
    if idle:
        raise InputError(
            f"{path} is no evidence: vector {idle[0]!r} changed nothing in it",
            hint="measure it where it acts: by another coefficient, scope or gate",
        )
    return {vectors[name]: one for name, one in found.items()}


def _is_idle(name: str, rows: list[dict[str, Any]]) -> bool:
    """Whether a vector left every unrelated text as it was, to the last bit."""
    drifts = [
        msgspec.convert(row["kl"], _Interval)
        for row in rows
        if row.get("vector") == name and row.get("kind") == "vector" and row.get("kl")
    ]
    return bool(drifts) and all(one.value == one.low == one.high == 0 for one in drifts)


def _evidence(name: str, rows: list[dict[str, Any]], how: str) -> Evidence:
    mine = [row for row in rows if row["vector"] in (None, name)]
    every = measures()
    names = [key for key in every if any(row.get(key) for row in mine)]
    cells = [
        (msgspec.convert(row["label"], str), *(_cell(every[key], row.get(key)) for key in names))
        for row in mine
    ]
    return Evidence(("", *(every[key].title for key in names)), tuple(cells), how)


def _cell(measure: Measure, value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "–"
    found = msgspec.convert(value, _Interval)
    return measure.shown(Interval(found.value, found.low, found.high))
