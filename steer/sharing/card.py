"""Markdown for pushed vectors: a card for each, and the README of their folder.

All text from a file is escaped: a name cannot become a link, a heading, HTML or YAML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from steer.base.files import shown
from steer.sharing.evidence import Evidence
from steer.sharing.pull import CARD, MADE
from steer.vectors.metadata import Metadata
from steer.vectors.provenance import UNREAD, ModelIdentity
from steer.vectors.sites import format_layers

README = "README.md"
_TAGS = ["steering-vector", "activation-steering", "representation-engineering"]
#: Licences that the hub knows by these names; any other has to be declared as `other`.
_LICENSES = {
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0",
    "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "unlicense",
    "openrail", "llama3", "llama3.1", "llama3.2", "llama3.3", "gemma",
}  # fmt: skip
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~>-])")
_UNMEASURED = (
    "**Not measured.** The author gives no figures for the effect and the cost of this vector:"
    " measure it with `steer eval` before you rely on it."
)
#: Evidence in a file that comes from a measurement begins with one of these.
_MEASURED = ("sweep of ", "recovery ", "calibrated on ")


def card(name: str, metadata: Metadata, place: str, evidence: Evidence | None = None) -> str:
    """The card of one vector at `place`."""
    parts = [MADE, f"# {name}", plain(metadata.description) or "No description was given."]
    parts += ["\n".join(_facts(metadata)), "## Effect and cost", _effect(metadata, evidence)]
    parts += ["## Use", f"```sh\n{_commands(name, metadata, place)}\n```"]
    parts.append(
        "The file is verified whenever it is read, and it fits only the model that is named above."
    )
    return "\n\n".join(parts) + "\n"


def index(rows: Mapping[str, Metadata], place: str, sole: str | None = None) -> str:
    """The README of a folder: the hub's front matter, and a table of the vectors.

    sole: where the folder has one vector only, its card, which takes the place of the table.
    """
    parts = [_front_matter(list(rows.values())) + "\n" + MADE]
    if sole is not None:
        return parts[0] + "\n" + sole.removeprefix(MADE + "\n\n")
    lines = ["| vector | model | layers | what it does |", "|---|---|---|---|"]
    for name, metadata in rows.items():
        cells = [
            f"[{name}]({name}{CARD})",
            plain(metadata.model.id),
            format_layers(metadata.layers),
            plain(metadata.description) or "–",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    first = next(iter(rows), "NAME")
    parts += ["# Steering vectors", "\n".join(lines)]
    parts.append(f"```sh\nsteer pull {place}/{first}\n```")
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """Text from a file as one line of Markdown, with all markup escaped."""
    line = " ".join(shown(text).split())
    entities = {"&": "&amp;", "<": "&lt;", "://": ":&#47;&#47;"}
    escaped = _SPECIAL.sub(r"\\\1", line)
    for mark, entity in entities.items():
        escaped = escaped.replace(mark, entity)
    return escaped


def _facts(metadata: Metadata) -> list[str]:
    model, best, contrast = metadata.model, metadata.recommended, metadata.contrast
    origin = f"{metadata.method} of {contrast}"
    if contrast.positive is not None:
        origin += f": {contrast.positive!r}"
        origin += f", against {contrast.negative!r}" if contrast.negative else ""
    if metadata.method.combination is not None:
        named = ", ".join(part.name for part in metadata.method.combination.parts)
        origin = f"{metadata.method.combination.op} of {named}"
    where = f"layers {format_layers(metadata.layers)} of {model.n_layers}, {metadata.site}"
    form = f"low-rank edit, rank {metadata.rank}" if metadata.rank else "vector"
    if metadata.tokens:
        form = f"learned token, {metadata.tokens} embedding{'s'[: metadata.tokens > 1]}"
        where = f"written <|{metadata.name}|> in a prompt"
    amount = f"{best.coefficient:.0%} of the activation's length"
    amount = amount if best.unit == "residual" else f"×{best.coefficient:g}"
    amount += "" if best.op == "add" else f" {best.op}"
    layers = "layers" if len(best.layers) > 1 else "layer"
    positions = metadata.read.positions
    read = "acts on" if positions in UNREAD else "read at"
    facts = {
        "model": f"{model.id}{f' at {model.revision}' if model.revision else ''}"
        f" ({_local(model)}{model.architecture}, width {model.d_model},"
        f" weights {model.fingerprint})",
        "form": f"{form}, {where}",
        "made by": f"{origin}; {read} {positions}",
        "data": f"sha256 {contrast.sha256}",
        "recommended": f"{amount} at {layers} {format_layers(best.layers)}"
        if not metadata.tokens
        else amount,
        "licence": metadata.license or "none was stated: ask before you use it in your own work",
        "sha256": metadata.sha256,
    }
    return [f"- {label}: {plain(value)}" for label, value in facts.items()]


def _local(model: ModelIdentity) -> str:
    """A note for a model whose id is only the name of a folder, which nobody else can load."""
    public = model.revision or _HUB_ID.fullmatch(model.id) or model.id == "pocket"
    return "" if public or not model.bound else "a local folder, identified by its weights; "


def _effect(metadata: Metadata, evidence: Evidence | None) -> str:
    measured = metadata.recommended.evidence
    parts = (
        [f"At the recommended setting: {plain(measured)}."]
        if measured.startswith(_MEASURED)
        else []
    )
    if metadata.method.distillation is not None:
        distillation = metadata.method.distillation
        parts.append(
            f"Its texts cost {distillation.extra_nats:.2f} extra nats per token under the unsteered"
            " model; texts under the condition as a prompt cost"
            f" {distillation.condition_extra_nats:.2f}."
        )
    if evidence is not None:
        rows = [[plain(cell) for cell in row] for row in evidence.rows]
        parts.append("\n".join(_table(evidence.columns, rows)))
        parts.append(f"95 % intervals are in brackets. {plain(evidence.how)}")
    return "\n\n".join(parts) or _UNMEASURED


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _commands(name: str, metadata: Metadata, place: str) -> str:
    # Readers paste the command, so an id from a file goes in only if it is a well-formed one.
    known = _HUB_ID.fullmatch(metadata.model.id) or metadata.model.id == "pocket"
    model = metadata.model.id if known else "MODEL"
    return f'steer pull {place}/{name}\nsteer apply "..." -m {model} -v {name} --compare'


def _front_matter(rows: Sequence[Metadata]) -> str:
    """YAML that the hub reads. A JSON value is a YAML value, so nothing in it can break out."""
    models = sorted({row.model.id for row in rows if _HUB_ID.fullmatch(row.model.id)})
    licenses = {row.license.lower() for row in rows}
    fields: dict[str, object] = {"library_name": "steer", "tags": _TAGS}
    if models:
        fields["base_model"] = models
    if len(licenses) == 1 and licenses <= _LICENSES:
        fields["license"] = min(licenses)
    elif licenses != {""}:
        fields |= {"license": "other", "license_name": "see-cards", "license_link": README}
    lines = [f"{name}: {json.dumps(value)}" for name, value in fields.items()]
    return "\n".join(["---", *lines, "---", ""])
