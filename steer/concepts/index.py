"""The index of a built pack: the concepts that work on a model, and why others do not."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from steer.base.errors import InputError, ModelError, SteerError, UsageError, VectorError
from steer.base.files import read_bytes
from steer.base.page import html_page
from steer.base.strict_json import load_strict_json
from steer.base.tables import NOTHING
from steer.vectors import store
from steer.vectors.provenance import ModelIdentity
from steer.vectors.sites import format_layers
from steer.vectors.vector import SteeringVector

INDEX = "pack.json"
FORMAT = 1
_MAX_BYTES = 50_000_000
#: The columns of a table of concepts.
HEADINGS = ["concept", "pack", "works", "at", "heeded", "AUC", "effect", "cost", "why not"]


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

    def line(self) -> str:
        """One line for the user: the effect and cost, or why the concept does not work."""
        if not self.works:
            return f"{self.name} does not work on this model: {self.reason}"
        effect, cost = self.number("effect"), self.number("cost")
        return (
            f"{self.name}: moves answers {effect or 0:.0%} of the way between the poles,"
            f" {cost or 0:+.2f} nats per token"
        )

    def cells(self) -> list[str]:
        """The cells of a table, one for each of `HEADINGS`."""

        def number(name: str, form: str) -> str:
            value = self.number(name)
            return NOTHING if value is None else format(value, form)

        steer = NOTHING
        if self.layers:
            steer = f"{number('coefficient', '.3g')}@{format_layers(self.layers)}"
        return [
            self.name,
            self.pack,
            "yes" if self.works else "no",
            steer,
            number("heeded", ".2f"),
            number("separability", ".2f"),
            number("effect", ".0%"),
            number("cost", ".2f"),
            self.reason,
        ]


@dataclass(frozen=True, slots=True)
class BuiltPack:
    """A folder of vectors with its index.

    rows: one per concept, in the pack's order. identity: the model that it was built on; None in
    the indexes of earlier versions.
    """

    folder: Path
    pack: str
    title: str
    model: str
    rows: tuple[IndexRow, ...]
    identity: ModelIdentity | None = None

    @property
    def working_rows(self) -> tuple[IndexRow, ...]:
        return tuple(row for row in self.rows if row.works)

    def vector_path(self, row: IndexRow) -> Path:
        return self.folder / f"{row.name}{store.SUFFIX}"

    def vectors(self) -> list[SteeringVector]:
        """The vectors of the concepts that work.

        Raises:
            VectorError: a file is missing or damaged.
        """
        return [store.read(self.vector_path(row)) for row in self.working_rows]

    def check_model(self, model: ModelIdentity, *, allow_other_model: bool = False) -> list[str]:
        """Refuse a pack of another model; if that is allowed, return warnings.

        Raises:
            ModelError: the model is another one.
            VectorError: the index is of an earlier version, and the first vector is damaged.
        """
        built_on = self.identity
        if built_on is None:  # an earlier version's index: every vector knows its model
            if not self.working_rows:
                return []
            built_on = store.read_header(self.vector_path(self.working_rows[0])).metadata.model
        subject = f"the pack in {self.folder} was built on {built_on.id}"
        warnings = [
            f"{subject}, with another {name} than {model.id} has now"
            for name, theirs, ours in (
                ("tokenizer", built_on.tokenizer, model.tokenizer),
                ("chat template", built_on.chat_template, model.chat_template),
            )
            if theirs != ours
        ]
        if built_on.fingerprint == model.fingerprint:
            return warnings
        fact = f"{subject}; the weights of {model.id} are others"
        if not allow_other_model:
            raise ModelError(
                fact,
                hint=f"name that model with -m, build the pack again (steer pack build"
                f" {self.pack} -m {model.id} -o FOLDER), or pass --allow-other-model",
            )
        return [fact, *warnings]

    def to_dict(self) -> dict[str, Any]:
        """The index as JSON has it."""
        return {
            "format": FORMAT,
            "pack": self.pack,
            "title": self.title,
            "model": self.model,
            **({} if self.identity is None else {"identity": msgspec.to_builtins(self.identity)}),
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
        return _page(self)

    def by_pack(self) -> dict[str, tuple[int, int]]:
        """The numbers of working and of all concepts of each pack file."""
        counts: dict[str, list[int]] = {}
        for row in self.rows:
            count = counts.setdefault(row.pack, [0, 0])
            count[0] += row.works
            count[1] += 1
        return {name: (works, total) for name, (works, total) in counts.items()}


def read(folder: Path) -> BuiltPack:
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
        identity = None
        if raw.get("identity") is not None:
            identity = msgspec.convert(raw["identity"], ModelIdentity)
        pack, title, model = (str(raw[name]) for name in ("pack", "title", "model"))
        return BuiltPack(folder, pack, title, model, rows, identity)
    except InputError:
        raise
    except (VectorError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: {error}", hint="build the pack again") from None


_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .2rem .6rem; border-bottom: 1px solid #8884 }
.fails td { opacity: .6 }
dt { font-weight: 600 }
.wide { overflow-x: auto }
"""


def _page(built: BuiltPack) -> str:
    """A page with a row for each concept of a built pack, and example answers."""
    escape = html.escape
    rows = []
    for row in built.rows:
        columns = "".join(f"<td>{escape(cell)}</td>" for cell in row.cells())
        rows.append(f"<tr class={'works' if row.works else 'fails'}>{columns}</tr>")
        example = row.values.get("example") or {}
        if isinstance(example, dict) and example:
            items = "".join(
                f"<dt>{escape(str(name))}</dt><dd>{escape(str(text))}</dd>"
                for name, text in example.items()
            )
            rows.append(
                f"<tr><td colspan={len(HEADINGS)}><details><summary>answers</summary>"
                f"<dl>{items}</dl></details></td></tr>"
            )
    head = "".join(f"<th>{escape(name)}</th>" for name in HEADINGS)
    summary = "; ".join(f"{n}: {works} of {total}" for n, (works, total) in built.by_pack().items())
    title = f"{built.title} on {built.model}"
    body = f"""<h1>{escape(title)}</h1>
<p>{len(built.working_rows)} of {len(built.rows)} concepts work. {escape(summary)}.
Effect: how far steering moves answers to held-out questions, as a share of the way between the
poles. Cost: extra nats per token. Heeded: how far apart the answers under the poles are, in nats
per token. AUC: separability of held-out answers.</p>
<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>
{"".join(rows)}
</tbody></table></div>"""
    return html_page(title, _STYLE, body)
