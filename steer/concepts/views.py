"""How a built pack and the geometry of its concepts are shown: rows of tables, and HTML pages."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from steer.base.page import html_page
from steer.base.tables import NOTHING
from steer.vectors.sites import format_layers

if TYPE_CHECKING:
    from steer.concepts.geometry import Geometry
    from steer.concepts.index import Built, IndexRow

#: The columns of `cells`.
HEADINGS = ["concept", "pack", "works", "at", "heeded", "AUC", "effect", "cost", "why not"]


def line(row: IndexRow) -> str:
    """One line about a concept: its effect and cost, or why it does not work."""
    if not row.works:
        return f"{row.name} does not work on this model: {row.reason}"
    effect, cost = row.number("effect"), row.number("cost")
    return (
        f"{row.name}: moves answers {effect or 0:.0%} of the way between the poles,"
        f" {cost or 0:+.2f} nats per token"
    )


def cells(row: IndexRow) -> list[str]:
    """The cells of a concept, one for each of `HEADINGS`."""

    def number(name: str, form: str) -> str:
        value = row.number(name)
        return NOTHING if value is None else format(value, form)

    steer = NOTHING
    if row.layers:
        steer = f"{number('coefficient', '.3g')}@{format_layers(row.layers)}"
    return [
        row.name,
        row.pack,
        "yes" if row.works else "no",
        steer,
        number("heeded", ".2f"),
        number("separability", ".2f"),
        number("effect", ".0%"),
        number("cost", ".2f"),
        row.reason,
    ]


_REPORT_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .2rem .6rem; border-bottom: 1px solid #8884 }
.fails td { opacity: .6 }
dt { font-weight: 600 }
.wide { overflow-x: auto }
"""


def report_page(built: Built) -> str:
    """A page with a row for each concept of a built pack, and example answers."""
    escape = html.escape
    rows = []
    for row in built.rows:
        columns = "".join(f"<td>{escape(cell)}</td>" for cell in cells(row))
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
<p>{len(built.working)} of {len(built.rows)} concepts work. {escape(summary)}.
Effect: how far steering moves answers to held-out questions, as a share of the way between the
poles. Cost: extra nats per token. Heeded: how far apart the answers under the poles are, in nats
per token. AUC: separability of held-out answers.</p>
<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>
{"".join(rows)}
</tbody></table></div>"""
    return html_page(title, _REPORT_STYLE, body)


#: The space for names beside the heat map, in pixels.
_MARGIN = 130


def map_page(geometry: Geometry, title: str) -> str:
    """A page with the heat map of cosines, in the order of the tree, and the tree."""
    escape = html.escape
    n = len(geometry.order)
    size = max(4, min(18, 1200 // n))
    shapes = []
    for y, i in enumerate(geometry.order):
        name = escape(geometry.names[i])
        offset = f"{_MARGIN + y * size + size * 0.8:.0f}"
        shapes.append(
            f'<text x="{_MARGIN - 4}" y="{offset}" text-anchor="end">{name}</text>'
            f'<text transform="translate({offset},{_MARGIN - 4}) rotate(-90)">{name}</text>'
        )
        for x, j in enumerate(geometry.order):
            cosine = float(geometry.cosines[i, j])
            colour = f"rgb({_shade(-cosine)},{_shade(abs(cosine))},{_shade(cosine)})"
            shapes.append(
                f'<rect x="{_MARGIN + x * size}" y="{_MARGIN + y * size}" width="{size}"'
                f' height="{size}" fill="{colour}"><title>{name} · {escape(geometry.names[j])}'
                f" {cosine:+.2f}</title></rect>"
            )
    width = _MARGIN + n * size
    tree = escape("\n".join(geometry.lines()))
    style = f"""
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem }}
svg text {{ font-size: {max(4, size - 2)}px; fill: currentColor }}
div {{ overflow: auto }}
"""
    body = f"""<h1>{escape(title)}</h1>
<p>Cosines of {n} concepts at layer {geometry.layer}: red is alike, blue opposite.</p>
<div><svg width="{width}" height="{width}" role="img" aria-label="heat map of cosines">
{"".join(shapes)}</svg></div>
<h2>Tree</h2>
<pre>{tree}</pre>"""
    return html_page(title, style, body)


def _shade(value: float) -> int:
    """The intensity of a colour channel, from 255 at 0 or below to 0 at 1."""
    return round(255 * (1 - max(0.0, min(1.0, value))))
