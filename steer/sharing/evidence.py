"""What `steer eval -o` has measured, as a card shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from steer.base.errors import InputError
from steer.base.files import read_typed
from steer.base.strict_json import load_strict_json

_MAX_BYTES = 20_000_000
#: Measures in their order, their headings, and how a number is written.
_MEASURES = {
    "preference": ("preference", "{:.2f}"),
    "right_way": ("right way", "{:.0%}"),
    "multiple_choice": ("matching", "{:.0%}"),
    "recovery": ("recovery", "{:.2f}"),
    "concept": ("concept", "{:.2f}"),
    "kl": ("KL", "{:.3f}"),
    "extra_nats": ("extra nats", "{:.2f}"),
    "distinct": ("distinct-2", "{:.0%}"),
}


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
        InputError: the file is not what `steer eval -o` writes.
    """
    data = read_typed(path, limit=_MAX_BYTES)
    try:
        told = load_strict_json(data.decode(), str(path))
        vectors = msgspec.convert(told["vectors"], dict[str, str])
        rows = msgspec.convert(told["rows"], list[dict[str, Any]])
        how = msgspec.convert(told["command"], str)
        found = {name: _evidence(name, rows, f"Again: {how}") for name in vectors}
    except (KeyError, TypeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise InputError(
            f"{path} is not what `steer eval -o` writes: {error}", hint="measure again with it"
        ) from None
    return {vectors[name]: one for name, one in found.items()}


def _evidence(name: str, rows: list[dict[str, Any]], how: str) -> Evidence:
    mine = [row for row in rows if row["vector"] in (None, name)]
    names = [key for key in _MEASURES if any(row.get(key) for row in mine)]
    cells = [
        (msgspec.convert(row["label"], str), *(_cell(key, row.get(key)) for key in names))
        for row in mine
    ]
    return Evidence(("", *(_MEASURES[key][0] for key in names)), tuple(cells), how)


def _cell(name: str, value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "–"
    told = msgspec.convert(value, _Interval)
    form = _MEASURES[name][1].format
    return f"{form(told.value)} [{form(told.low)}, {form(told.high)}]"
