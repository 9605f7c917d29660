"""`steer compare --pack` and `steer monitor --pack`: the concepts of a built pack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from steer.cli import options, output
from steer.models.source import ModelSource

#: The number of nearest pairs, and of most opposite pairs, to list.
_PAIRS = 8


def compare(folder: Path, *, layer: int | None, html: Path | None, force: bool, json: bool) -> None:
    """Print the tree of a pack's concepts and the nearest pairs; write the heat map as a page."""
    from steer.base.files import check_writable, write_atomic
    from steer.concepts.geometry import geometry
    from steer.concepts.index import read

    if html is not None:
        check_writable(html, force=force)
    built = read(folder)
    compared = geometry(built.vectors(), layer)
    if html is not None:
        page = compared.to_html(f"{built.title} on {built.model}")
        write_atomic(html, page.encode("utf-8", "surrogatepass"), force=force)
        output.note(f"wrote {html}")
    if json:
        output.as_json(compared.to_dict())
        return
    for line in compared.lines():
        output.line(line)
    output.line()
    rows = [[first, second, f"{cosine:+.2f}"] for first, second, cosine in compared.pairs(_PAIRS)]
    output.table(["concept", "concept", "cosine"], rows, left=2)
    output.note(f"{len(compared.names)} concepts at layer {compared.layer}")


def profile(
    texts: Sequence[str],
    folder: Path,
    *,
    top: int,
    chat: bool | None,
    json: bool,
    source: ModelSource,
) -> None:
    """Print the concepts that make each text likeliest, beside the model's own texts."""
    from steer.concepts.index import read

    built = read(folder)
    vectors = built.vectors()
    model = options.load_model(replace(source, fast=True))
    options.check_fit(vectors, model.identity, allow_other_model=False)
    from steer.concepts.profile import Profiler

    profiler = Profiler(model, built, chat=chat, progress=output.progress)
    profiles = profiler.read(texts, output.progress)
    if json:
        output.as_json(
            {
                "model": model.identity.id,
                "pack": built.pack,
                "texts": [profile.to_dict() for profile in profiles],
            }
        )
        return
    for number, profile in enumerate(profiles, 1):
        shown = " ".join(profile.text.split())
        output.heading(f"text {number} · {shown[:70]}{'…' if len(shown) > 70 else ''}")
        readings = profile.top(top)
        rows = [[name, f"{reading:+.2f}", f"{rate:.0%}"] for name, reading, rate in readings]
        output.table(["concept", "nats per token", "of the model's own texts"], rows)
        output.line()
    output.note(
        f"{model.describe()} · {len(profiler.names)} concepts; by how much the concept makes the"
        f" text likelier than its opposite, and the share of {len(profiler.baseline)} texts of the"
        " model's own with a reading as high"
    )
