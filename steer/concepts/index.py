"""The index of a built pack: the concepts that work on a model, and why others do not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steer.base.errors import InputError, SteerError, UsageError, VectorError
from steer.base.files import read_bytes
from steer.base.strict_json import load_strict_json
from steer.concepts.views import report_page
from steer.vectors import store
from steer.vectors.vector import SteeringVector

INDEX = "pack.json"
FORMAT = 1
_MAX_BYTES = 50_000_000


@dataclass(frozen=True, slots=True)
class IndexRow:
    """One concept of an index: the values of its report, and its pack."""

    values: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.values["name"])

    @property
    def pack(self) -> str:
        return str(self.values.get("pack", ""))

    @property
    def works(self) -> bool:
        return bool(self.values["works"])

    @property
    def reason(self) -> str:
        return str(self.values.get("reason", ""))

    @property
    def key(self) -> str:
        return str(self.values.get("key", ""))

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers at which its vector is added."""
        values = self.values.get("layers")
        listed = values if isinstance(values, list) else []
        return tuple(layer for layer in listed if isinstance(layer, int))

    def number(self, name: str) -> float | None:
        """A number of the report, or the value of an interval."""
        value = self.values.get(name)
        value = value.get("value") if isinstance(value, dict) else value
        return float(value) if isinstance(value, (int, float)) else None


@dataclass(frozen=True, slots=True)
class Built:
    """A folder of vectors with its index. rows: one per concept, in the pack's order."""

    folder: Path
    pack: str
    title: str
    model: str
    rows: tuple[IndexRow, ...]

    @property
    def working(self) -> tuple[IndexRow, ...]:
        return tuple(row for row in self.rows if row.works)

    def vector_path(self, row: IndexRow) -> Path:
        return self.folder / f"{row.name}{store.SUFFIX}"

    def vectors(self) -> list[SteeringVector]:
        """The vectors of the concepts that work.

        Raises:
            VectorError: a file is missing or damaged.
        """
        return [store.read(self.vector_path(row)) for row in self.working]

    def to_dict(self) -> dict[str, Any]:
        """The index as JSON has it."""
        return {
            "format": FORMAT,
            "pack": self.pack,
            "title": self.title,
            "model": self.model,
            "concepts": [row.values for row in self.rows],
        }

    def to_pandas(self) -> Any:
        """A pandas DataFrame with one row per concept.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UsageError("to_pandas needs pandas", hint="pip install pandas") from None
        return pandas.json_normalize([row.values for row in self.rows])

    def to_html(self) -> str:
        """A page with a row for each concept, and example answers; it needs no network."""
        return report_page(self)

    def by_pack(self) -> dict[str, tuple[int, int]]:
        """The numbers of working and of all concepts of each pack file."""
        counts: dict[str, list[int]] = {}
        for row in self.rows:
            count = counts.setdefault(row.pack, [0, 0])
            count[0] += row.works
            count[1] += 1
        return {name: (works, total) for name, (works, total) in counts.items()}


def read(folder: Path) -> Built:
    """Read the index of a folder that `build` wrote.

    Raises:
        InputError: there is no index, or it is damaged.
    """
    path = folder / INDEX
    try:
        data = read_bytes(path, limit=_MAX_BYTES)
    except SteerError as error:
        raise InputError(
            f"{folder} has no pack index: {error}",
            hint=f"`steer pack build PACK -m MODEL -o {folder}` makes one",
        ) from None
    try:
        raw = load_strict_json(data.decode(), str(path))
        if raw["format"] > FORMAT:
            raise InputError(f"{path} has a newer format", hint="install a newer steer")
        rows = tuple(IndexRow(dict(row)) for row in raw["concepts"])
        for row in rows:
            _ = row.name, row.works
        return Built(folder, str(raw["pack"]), str(raw["title"]), str(raw["model"]), rows)
    except InputError:
        raise
    except (VectorError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: {error}", hint="build the pack again") from None
