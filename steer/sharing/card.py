"""What a pushed vector says of itself in prose: a card for each, and an index of a folder.

Everything that comes from a file is escaped: a name cannot become a link, a heading, HTML or YAML.
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
#: Licences as the hub names them; others it wants as `other`, with a name.
_LICENSES = {
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0",
    "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "unlicense",
    "openrail", "llama3", "llama3.1", "llama3.2", "llama3.3", "gemma",
}  # fmt: skip
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~>-])")
_UNMEASURED = (
    "**Nothing was measured.** Whoever made this vector has not said what it does to a model, or"
    " what that costs: measure it before you rely on it, with `steer eval`."
)
#: How the evidence in a file begins that something was measured for.
_MEASURED = ("sweep of ", "recovery ")


def card(name: str, metadata: Metadata, place: str, evidence: Evidence | None = None) -> str:
    """The card of one vector at `place`."""
    parts = [MADE, f"# {name}", plain(metadata.description) or "No description was given."]
    parts += ["\n".join(_facts(metadata)), "## Effect and cost", _effect(metadata, evidence)]
    parts += ["## Use", f"```sh\n{_commands(name, metadata, place)}\n```"]
    parts.append(
        "The file checks itself when it is read, and fits the model that is named above alone."
    )
    return "\n\n".join(parts) + "\n"


def index(rows: Mapping[str, Metadata], place: str, sole: str | None = None) -> str:
    """The README of a folder: what the hub wants to know, and its vectors.

    sole: the card of a vector that is alone.
    """
    parts = [_front_matter(list(rows.values())) + "\n" + MADE]
    if sole is not None:
        return parts[0] + "\n" + sole.removeprefix(MADE + "\n\n")
    lines = ["| vector | model | layers | what it does |", "|---|---|---|---|"]
    for name, one in rows.items():
        cells = [
            f"[{name}]({name}{CARD})",
            plain(one.model.id),
            format_layers(one.layers),
            plain(one.description) or "–",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    first = next(iter(rows), "NAME")
    parts += ["# Steering vectors", "\n".join(lines)]
    parts.append(f"```sh\nsteer pull {place}/{first}\n```")
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """Text from a file as Markdown that shows it and does nothing else, on one line."""
    line = " ".join(shown(text).split())
    entities = {"&": "&amp;", "<": "&lt;", "://": ":&#47;&#47;"}
    escaped = _SPECIAL.sub(r"\\\1", line)
    for mark, entity in entities.items():
        escaped = escaped.replace(mark, entity)
    return escaped


def _facts(metadata: Metadata) -> list[str]:
    model, best, contrast = metadata.model, metadata.recommended, metadata.contrast
    made = f"{metadata.method} of {contrast}"
    if contrast.positive is not None:
        made += f": {contrast.positive!r}"
        made += f", against {contrast.negative!r}" if contrast.negative else ""
    if metadata.method.combination is not None:
        named = ", ".join(part.name for part in metadata.method.combination.parts)
        made = f"{metadata.method.combination.op} of {named}"
    where = f"layers {format_layers(metadata.layers)} of {model.n_layers}, {metadata.site}"
    form = f"low-rank edit, rank {metadata.rank}" if metadata.rank else "vector"
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
        "made by": f"{made}; {read} {positions}",
        "data": f"sha256 {contrast.sha256}",
        "recommended": f"{amount} at {layers} {format_layers(best.layers)}",
        "licence": metadata.license or "none was stated: ask before you use it in your own work",
        "sha256": metadata.sha256,
    }
    return [f"- {label}: {plain(value)}" for label, value in facts.items()]


def _local(model: ModelIdentity) -> str:
    """Tells of a model that is known by its folder's name alone that nobody can load it by that."""
    public = model.revision or _HUB_ID.fullmatch(model.id) or model.id == "pocket"
    return "" if public or not model.bound else "a folder of the maker's, known by its weights; "


def _effect(metadata: Metadata, evidence: Evidence | None) -> str:
    told = metadata.recommended.evidence
    parts = [f"At the recommended setting: {plain(told)}."] if told.startswith(_MEASURED) else []
    if metadata.method.distillation is not None:
        how = metadata.method.distillation
        parts.append(
            f"Its texts cost {how.extra_nats:.2f} extra nats per token under the unsteered model;"
            f" those of the condition as a prompt {how.condition_extra_nats:.2f}."
        )
    if evidence is not None:
        rows = [[plain(cell) for cell in row] for row in evidence.rows]
        parts.append("\n".join(_table(evidence.columns, rows)))
        parts.append(f"In brackets 95 % intervals. {plain(evidence.how)}")
    return "\n\n".join(parts) or _UNMEASURED


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _commands(name: str, metadata: Metadata, place: str) -> str:
    # An id from a file is not put into a command that a reader will paste.
    known = _HUB_ID.fullmatch(metadata.model.id) or metadata.model.id == "pocket"
    model = metadata.model.id if known else "MODEL"
    return f'steer pull {place}/{name}\nsteer apply "..." -m {model} -v {name} --compare'


def _front_matter(rows: Sequence[Metadata]) -> str:
    """YAML that the hub reads. A JSON value is a YAML value, so nothing in it can break out."""
    models = sorted({one.model.id for one in rows if _HUB_ID.fullmatch(one.model.id)})
    told = {one.license.lower() for one in rows}
    fields: dict[str, object] = {"library_name": "steer", "tags": _TAGS}
    if models:
        fields["base_model"] = models
    if len(told) == 1 and told <= _LICENSES:
        fields["license"] = min(told)
    elif told != {""}:
        fields |= {"license": "other", "license_name": "see-cards", "license_link": README}
    lines = [f"{name}: {json.dumps(value)}" for name, value in fields.items()]
    return "\n".join(["---", *lines, "---", ""])
