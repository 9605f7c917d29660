"""The results of `steer eval -o`, as a card shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from steer.base.errors import InputError
from steer.base.files import read_typed
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
    """A table of effect and cost, with its baselines. how: the command that reproduces it."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    how: str


def read(path: Path) -> dict[str, Evidence]:
    """The evidence for each measured vector, by the vector's hash.

    Raises:
        InputError: the file was not written by `steer eval -o`, or a vector changed nothing in it.
    """
    data = read_typed(path, limit=_MAX_BYTES)
    try:
        report = load_strict_json(data.decode(), str(path))
        vectors = msgspec.convert(report["vectors"], dict[str, str])
        rows = msgspec.convert(report["rows"], list[dict[str, Any]])
        command = msgspec.convert(report["command"], str)
        evidence = {name: _evidence(name, rows, f"Reproduce: {command}") for name in vectors}
        idle = [name for name in vectors if _is_idle(name, rows)]
    except (KeyError, TypeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise InputError(
            f"{path} was not written by `steer eval -o`: {error}",
            hint="measure again: steer eval -o FILE",
        ) from None
    if idle:
        raise InputError(
            f"{path} is no evidence: vector {idle[0]!r} changed nothing in it",
            hint="measure it with a coefficient, scope or gate under which it acts",
        )
    return {vectors[name]: result for name, result in evidence.items()}


def _is_idle(name: str, rows: list[dict[str, Any]]) -> bool:
    """Whether a vector left every unrelated text as it was, to the last bit."""
    drifts = [
        msgspec.convert(row["kl"], _Interval)
        for row in rows
        if row.get("vector") == name and row.get("kind") == "vector" and row.get("kl")
    ]
    return bool(drifts) and all(drift.value == drift.low == drift.high == 0 for drift in drifts)


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
    interval = msgspec.convert(value, _Interval)
    return measure.shown(Interval(interval.value, interval.low, interval.high))
