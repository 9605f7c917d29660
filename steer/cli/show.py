"""`steer show`: print the metadata of a vector file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli import options, output, tables
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.monitoring.lens import LayerLens
    from steer.vectors.metadata import Metadata
    from steer.vectors.provenance import Combination


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("show")(show)


@options.with_model(default="pocket")
def show(
    *,
    vector: Annotated[str, typer.Argument(help="A file, or a name in ./vectors.")],
    lens: Annotated[
        bool,
        typer.Option("--lens", help="Show the tokens that it raises and lowers; loads the model."),
    ] = False,
    top: Annotated[int, typer.Option(min=1, help="Tokens at each end; with --lens.")] = 8,
    allow_other_model: Annotated[
        bool, typer.Option("--allow-other-model", help="Look through a finetune of its model.")
    ] = False,
    json: options.Json = False,
    source: ModelSource,
) -> None:
    """Print the metadata of a vector file.

    With --lens, the vector of each layer is multiplied by the model's unembedding: steer prints the
    tokens that it raises and lowers most, with scores in standard deviations over the vocabulary. A
    random vector also reaches about 4, so look at the words rather than the numbers. For a learned
    token, --lens prints the words with the nearest embeddings.

    \b
    steer show joyful
    steer show joyful --lens -m pocket
    steer show joyful --json
    """
    from steer.fitting.warnings import warnings
    from steer.vectors import store
    from steer.vectors.metadata import to_json

    header = store.read_header(options.find(vector))
    warned = warnings(header.metadata)
    rows = _lens(source, header.path, top, allow_other_model) if lens else []
    if json:
        printed = {"path": str(header.path), "bytes": header.n_bytes} | to_json(header.metadata)
        printed["warnings"] = warned
        output.as_json(printed | ({"lens": [asdict(row) for row in rows]} if lens else {}))
        return
    for label, value in _facts(header.metadata):
        if value:
            output.line(f"{label:<12} {value}")
    if not header.metadata.tokens:
        output.line()
        tables.layer_table(header.metadata)
    for text in warned:
        output.line()
        output.line(f"warning: {text}")
    if lens:
        output.line()
        if header.metadata.tokens:
            _nearest_table(rows)
        else:
            _lens_table(header.metadata, rows)


def _lens(source: ModelSource, path: Path, top: int, allow_other_model: bool) -> list[LayerLens]:
    from steer.steering.steers import check_fits
    from steer.vectors import store

    vector = store.read(path)
    model = options.load_model(source)
    from steer.monitoring.lens import lens, nearest

    for text in check_fits(vector, model.identity, allow_other_model=allow_other_model):
        output.warning(text)
    if vector.metadata.tokens:
        return nearest(model, vector, top=top)
    if vector.metadata.rank:
        output.warning(f"{vector.name} is a low-rank edit: the lens shows only its constant part")
    return lens(model, vector, top=top)


def _lens_table(metadata: Metadata, rows: Sequence[LayerLens]) -> None:
    room = (output.width() - len("layer  ")) // 2 - 2
    cells = []
    for row in rows:
        columns = (
            [f"{token.text!r} {token.score:.1f}" for token in tokens]
            for tokens in (row.raised, row.lowered)
        )
        cells.append(
            [tables.marked(row.layer, metadata), *(_filled(words, room) for words in columns)]
        )
    output.table(["layer", "raises", "lowers"], cells, left=3)


def _nearest_table(rows: Sequence[LayerLens]) -> None:
    cells = [
        [str(row.layer), "  ".join(f"{word.text!r} {word.score:.2f}" for word in row.raised)]
        for row in rows
    ]
    output.table(["embedding", "nearest words, by cosine"], cells, left=2)


def _filled(words: Sequence[str], room: int) -> str:
    """Wrap words to lines of at most `room` characters."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 2 + len(word) <= room:
            lines[-1] += f"  {word}"
        else:
            lines.append(word)
    return "\n".join(lines) or "–"


def _facts(metadata: Metadata) -> list[tuple[str, str]]:
    from steer.methods.registry import distill_methods
    from steer.steering.operation import Coefficient
    from steer.vectors.sites import format_layers

    model, contrast, best = metadata.model, metadata.contrast, metadata.recommended
    revision = f" at {model.revision[:12]}" if model.revision else ""
    known = f"{model.architecture}, weights {model.fingerprint}" if model.bound else "not bound"
    origin = f"{metadata.method} of {contrast}"
    if contrast.positive is not None:
        origin += f", {contrast.positive!r}"
        origin += "" if contrast.negative is None else f" against {contrast.negative!r}"
    distillation = metadata.method.distillation
    if distillation is not None and contrast.kind == "condition":
        options = str(metadata.method).removeprefix(metadata.method.name)
        title = distill_methods().title(distillation.method) + options
        origin = f"{contrast.positive!r} distilled by {title}, over {contrast.n} texts"
        origin += f" against {contrast.negative!r}" if contrast.negative else ""
    read = (
        f"acts on {metadata.read.positions}"
        if distillation is not None
        else tables.where_read(metadata.read)
    )
    form = f"low-rank edit, rank {metadata.rank}" if metadata.rank else ""
    if (source := metadata.method.source) is not None:
        origin = f"{source.format} file, sha256 {source.sha256[:12]}"
        read = f"{source.convention} (layer here = number there {source.offset:+d})"
    if metadata.method.combination is not None:
        origin = _combined(metadata.method.combination)
    if metadata.method.package:
        origin += f", by the package {metadata.method.package}"
    site = f"{metadata.site}, layers {format_layers(metadata.layers)} of {model.n_layers}"
    if metadata.tokens:
        site = "embedding"
        count = "1 embedding" if metadata.tokens == 1 else f"{metadata.tokens} embeddings"
        form = f"learned token, {count}, written <|{metadata.name}|> in a prompt"
        read = "in a system message" if metadata.read.chat else "at the start of a text"
        if metadata.coefficients is not None:
            form += "; coefficients from {:g} to {:g}".format(*metadata.coefficients)
    amount = f"×{Coefficient(best.coefficient, best.unit)}"
    amount += "" if best.op == "add" else f" {best.op}"
    where = format_layers(best.layers) + (f", {best.scope}" if best.scope else "")
    where = "prompt" if metadata.tokens else where
    return [
        ("name", metadata.name),
        ("description", metadata.description),
        ("license", metadata.license),
        ("model", f"{model.id}{revision} ({known})"),
        ("site", site),
        ("form", form),
        ("made from", f"{origin}; {read}"),
        ("recommended", f"{amount} @ {where} ({best.evidence})"),
        ("sha256", metadata.sha256),
    ]


def _combined(how: Combination) -> str:
    """`sum of joyful:1 + calm:-50% (orthogonal to sad)`."""
    from steer.steering.operation import Coefficient

    parts = [f"{part.name}:{Coefficient(part.coefficient, part.unit)}" for part in how.parts]
    others = ", ".join(part.name for part in how.orthogonal_to)
    return f"{how.op} of {' + '.join(parts)}" + (f" (orthogonal to {others})" if others else "")
