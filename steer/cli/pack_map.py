"""What commands show of a built pack: how its concepts lie to each other, and a text's profile."""

from __future__ import annotations

import html as markup
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steer.base.page import html_page
from steer.cli import options, output
from steer.models.source import ModelSource

if TYPE_CHECKING:
    from steer.concepts.geometry import Geometry

#: Pairs that are listed as the nearest, and as the most opposite.
_PAIRS = 8


def compare(folder: Path, *, layer: int | None, html: Path | None, force: bool, json: bool) -> None:
    """The tree of a pack's concepts and the pairs that are nearest; the heat map as a page."""
    from steer.base.files import check_writable, write_atomic
    from steer.concepts.geometry import geometry
    from steer.concepts.index import read

    if html is not None:
        check_writable(html, force=force)
    built = read(folder)
    compared = geometry(built.vectors(), layer)
    if html is not None:
        title = f"{built.title} on {built.model}"
        write_atomic(html, _page(compared, title).encode("utf-8", "surrogatepass"), force=force)
        output.note(f"wrote {html}")
    if json:
        output.as_json(compared.to_dict())
        return
    for line in compared.lines():
        output.line(line)
    output.line()
    pairs = sorted(
        (float(compared.cosines[i, j]), i, j)
        for i in range(len(compared.names))
        for j in range(i + 1, len(compared.names))
    )
    shown = dict.fromkeys([*reversed(pairs[-_PAIRS:]), *pairs[:_PAIRS]])
    rows = [[compared.names[i], compared.names[j], f"{cosine:+.2f}"] for cosine, i, j in shown]
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
    """The concepts that each text shows most, and how often the model's own texts show as much."""
    from steer.concepts.index import read

    built = read(folder)
    vectors = built.vectors()
    model = options.load_model(source)
    options.check_fit(vectors, model.identity, allow_other_model=False)
    from steer.concepts.profile import Profiler

    profiler = Profiler(model, vectors, chat=chat, progress=output.progress)
    profiles = profiler.read(texts, output.progress)
    if json:
        output.as_json(
            {
                "model": model.identity.id,
                "pack": built.pack,
                "texts": [one.to_dict() for one in profiles],
            }
        )
        return
    for number, one in enumerate(profiles, 1):
        shown = " ".join(one.text.split())
        output.heading(f"text {number} · {shown[:70]}{'…' if len(shown) > 70 else ''}")
        rows = [[name, f"{reading:+.1f}", f"{rate:.0%}"] for name, reading, rate in one.top(top)]
        output.table(["concept", "deviations", "of the model's own texts"], rows)
        output.line()
    n = len(profiler.baseline.held_out)
    output.note(
        f"{model.describe()} · {len(vectors)} concepts; deviations from what the model writes"
        f" unsteered, and the share of {n} such texts that read as high"
    )


def _page(compared: Geometry, title: str) -> str:
    """A heat map in the tree's order, and the tree, as one page that needs no network."""
    escape = markup.escape
    n = len(compared.order)
    size = max(4, min(18, 1200 // n))
    left = 130
    cells = []
    for y, i in enumerate(compared.order):
        name = escape(compared.names[i])
        cells.append(
            f'<text x="{left - 4}" y="{left + y * size + size * 0.8:.0f}" text-anchor="end">'
            f"{name}</text>"
            f'<text transform="translate({left + y * size + size * 0.8:.0f},{left - 4})'
            f' rotate(-90)">{name}</text>'
        )
        for x, j in enumerate(compared.order):
            value = float(compared.cosines[i, j])
            colour = f"rgb({_shade(-value)},{_shade(abs(value))},{_shade(value)})"
            cells.append(
                f'<rect x="{left + x * size}" y="{left + y * size}" width="{size}"'
                f' height="{size}" fill="{colour}"><title>{name} · {escape(compared.names[j])}'
                f" {value:+.2f}</title></rect>"
            )
    side = left + n * size
    tree = escape("\n".join(compared.lines()))
    style = f"""
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem }}
svg text {{ font-size: {max(4, size - 2)}px; fill: currentColor }}
div {{ overflow: auto }}
"""
    body = f"""<h1>{escape(title)}</h1>
<p>Cosines of {n} concepts at layer {compared.layer}: red is alike, blue opposite.</p>
<div><svg width="{side}" height="{side}" role="img" aria-label="heat map of cosines">
{"".join(cells)}</svg></div>
<h2>Tree</h2>
<pre>{tree}</pre>"""
    return html_page(title, style, body)


def _shade(value: float) -> int:
    """How light a colour's part is: white at 0, dark at 1."""
    return round(255 * (1 - max(0.0, min(1.0, value))))
