"""Reports about a vector that several commands print: its layers, origin, and how to try it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steer.cli import output
from steer.models.source import POCKET

if TYPE_CHECKING:
    from steer.evaluation.calibration import Calibration
    from steer.vectors.metadata import Metadata
    from steer.vectors.provenance import Read
    from steer.vectors.vector import SteeringVector

#: A direction whose cosine with the mean difference is at least this is the mean difference.
ALIKE = 1 - 1e-5


def report_vector(
    path: Path,
    vectors: list[SteeringVector],
    *,
    described: str,
    json: bool,
    model: str | None = None,
    calibration: Calibration | None = None,
) -> None:
    """Report a new vector, for `extract` and `fit`.

    vectors: as from `fitted`; the first as it was written. model: as for `written`.
    """
    from steer.fitting.warnings import warnings
    from steer.vectors.metadata import to_json
    from steer.vectors.sites import format_layers

    metadata, compared = vectors[0].metadata, [vector.metadata for vector in vectors[1:]]
    warned = warnings(metadata)
    for text in warned:
        output.warning(text)
    if json:
        rows = [_compared_row(other) for other in compared]
        more: dict[str, Any] = {"compared": rows} if len(rows) > 1 else {}
        if calibration is not None:
            more["calibration"] = [trial.to_dict() for trial in calibration.trials]
        output.as_json({"path": str(path), **to_json(metadata), "warnings": warned, **more})
        return
    output.note(
        f"{described} · {metadata.contrast} · {metadata.method} of {metadata.site},"
        f" {where_read(metadata.read)}"
    )
    if len(compared) > 1:
        _comparison(metadata, compared)
        output.line()
    layer_table(metadata)
    layers = format_layers(metadata.recommended.layers)
    several = "s" if len(metadata.recommended.layers) > 1 else ""
    output.note(f"recommended layer{several} {layers}: {metadata.recommended.evidence}")
    written(path, metadata, model)


def written(path: Path, metadata: Metadata, model: str | None = None) -> None:
    """Note that a vector was written, and how to try it. model: the value of `-m`, if known."""
    name = model or metadata.model.id
    if model is None and name != POCKET and "/" not in name:
        name = "MODEL"  # the id of a local model is the name of its folder without the path
    more = "" if metadata.model.bound else " --allow-other-model"
    command = trial(str(path), name, chat=bool(metadata.read.chat))
    output.note(f"wrote {path}; try: {command}{more}")


def trial(spec: str, model: str, *, chat: bool) -> str:
    """A command line that shows the effect of a steer."""
    prompt = '"How are you?" --chat' if chat else '"One day"'
    on = "" if model == POCKET else f" -m {shlex.quote(model)}"
    return f"steer apply {prompt}{on} -v {shlex.quote(spec)} --compare"


def _compared_row(metadata: Metadata) -> dict[str, Any]:
    """The statistics of a site and position, at the recommended layer."""
    row = metadata.at(metadata.recommended.layers[0])
    return {
        "site": metadata.site,
        "positions": metadata.read.positions,
        "layer": row.layer,
        "share": row.share,
        "separability": row.separability,
        "coherence": row.coherence,
    }


def _comparison(chosen: Metadata, compared: Sequence[Metadata]) -> None:
    rows = []
    for metadata in compared:
        row = _compared_row(metadata)
        is_chosen = (metadata.site, metadata.read) == (chosen.site, chosen.read)
        numbers = [row["separability"], *([row["coherence"]] if chosen.contrast.paired else [])]
        rows.append(
            [
                row["site"],
                row["positions"] + (" *" if is_chosen else ""),
                str(row["layer"]),
                f"{row['share']:.0%}",
                *("–" if number is None else f"{number:.2f}" for number in numbers),
            ]
        )
    columns = ["site", "position", "best layer", "of residual", "separability", "coherence"]
    output.table(columns[: len(rows[0])], rows, left=2)


def where_read(read: Read) -> str:
    """Where a vector was read, such as `-2 position, in a chat`."""
    frame = [f"system message {read.system!r}"] if read.system else []
    frame += [f"template {read.template!r}"] if read.template else []
    chat = ["in a chat"] if read.chat else []
    return ", ".join([f"{read.positions} position", *chat, *frame])


def layer_table(metadata: Metadata) -> None:
    """Print a row for each layer, with recommended layers marked and empty columns left out."""
    rows = metadata.statistics
    columns = {
        "layer": [marked(r.layer, metadata) for r in rows],
        "norm": [length(r.norm) for r in rows],
        "of residual": [f"{r.share:.0%}" if r.resid_norm else "–" for r in rows],
        "separability": [_number(r.separability) for r in rows],
    }
    if any(r.coherence is not None for r in rows):
        columns["coherence"] = [_number(r.coherence) for r in rows]
    # For the mean difference itself this column would be 1 everywhere.
    if any(r.agreement is not None and r.norm and r.agreement < ALIKE for r in rows):
        columns["cos mean_diff"] = [_number(r.agreement) for r in rows]
    output.table(list(columns), list(zip(*columns.values(), strict=True)))


def length(value: float) -> str:
    """A norm with three significant digits, or all digits before the decimal point."""
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def marked(layer: int, metadata: Metadata) -> str:
    """The layer, with a star if it is recommended and others are not."""
    best = metadata.recommended.layers
    return f"{layer} *" if layer in best and len(best) < len(metadata.layers) else str(layer)
