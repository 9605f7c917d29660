"""`steer show`: what a vector file says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli import options, output

if TYPE_CHECKING:
    from steer.metadata import Metadata


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("show")(show)


def show(
    vector: Annotated[str, typer.Argument(help="A file, or a name in ./vectors.")],
    json: options.Json = False,
) -> None:
    """Print what a vector file says of itself: model, data, layers, recommendation.

    \b
    steer show joyful
    steer show vectors/joyful.safetensors --json
    """
    from steer import store
    from steer.metadata import to_json

    header = store.read_header(store.find(vector))
    if json:
        output.as_json(
            {"path": str(header.path), "bytes": header.n_bytes} | to_json(header.metadata)
        )
        return
    for label, value in _facts(header.metadata):
        if value:
            output.line(f"{label:<12} {value}")
    output.line()
    layer_table(header.metadata)


def _facts(metadata: Metadata) -> list[tuple[str, str]]:
    from steer.sites import format_layers

    model, contrast, best = metadata.model, metadata.contrast, metadata.recommended
    revision = f" at {model.revision[:12]}" if model.revision else ""
    made = f"{metadata.method.name} of {contrast.n} {contrast.kind}"
    if contrast.kind == "conditions":
        made += f", {contrast.positive!r} against {contrast.negative!r}"
    if metadata.method.distillation is not None:
        made = f"{contrast.positive!r} distilled, over {contrast.n} texts"
        made += f" against {contrast.negative!r}" if contrast.negative else ""
    read = (
        f"acts on {metadata.read.positions}"
        if contrast.kind == "condition"
        else (f"{metadata.read.positions} position")
    )
    form = f"low-rank edit, rank {metadata.rank}" if metadata.rank else ""
    return [
        ("name", metadata.name),
        ("description", metadata.description),
        ("license", metadata.license),
        ("model", f"{model.id}{revision} ({model.architecture}, weights {model.fingerprint})"),
        ("site", f"{metadata.site}, layers {format_layers(metadata.layers)} of {model.n_layers}"),
        ("form", form),
        ("made from", f"{made}; {read}"),
        ("recommended", f"×{best.coefficient:g} @ {format_layers(best.layers)} ({best.evidence})"),
        ("sha256", metadata.sha256),
    ]


def layer_table(metadata: Metadata) -> None:
    """A row for each layer, the recommended ones marked; columns that say nothing are left out."""
    rows = metadata.statistics
    columns = {
        "layer": [f"{r.layer}{' *' * (r.layer in metadata.recommended.layers)}" for r in rows],
        "norm": [f"{r.norm:.3g}" for r in rows],
        "of residual": [f"{r.share:.0%}" if r.resid_norm else "–" for r in rows],
        "separability": [_number(r.separability) for r in rows],
    }
    if any(r.coherence is not None for r in rows):
        columns["coherence"] = [_number(r.coherence) for r in rows]
    if metadata.method.name != "mean_diff":
        columns["cos mean_diff"] = [_number(r.agreement) for r in rows]
    output.table(list(columns), list(zip(*columns.values(), strict=True)))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
