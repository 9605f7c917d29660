"""The results of a sweep as one self-contained HTML page."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import Any

from steer.base.files import shown
from steer.base.page import html_page
from steer.measures import pictures

_STYLE = """
:root { color-scheme: light dark; --ink: #111; --page: #fff; --soft: #f4f4f4; --line: #ddd }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --page: #16181d; --soft: #22252c; --line: #3a3f49 }
}
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
       color: var(--ink); background: var(--page) }
h1 { font-size: 1.5rem; overflow-wrap: anywhere }
.wide { overflow-x: auto }
img { width: 100%; min-width: 52rem; height: auto; background: #fff; border-radius: .3rem }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .8rem .2rem 0; text-align: right; border-bottom: 1px solid var(--line) }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); padding: .8rem }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1rem }
.pair h3 { font-size: .9rem; margin: .5rem 0 -.5rem; opacity: .75 }
.hashes { overflow-wrap: anywhere; opacity: .75 }
@media (max-width: 40rem) { .pair { grid-template-columns: 1fr } }
"""


#: How many cells of the front the page shows before the texts; all cells follow after them.
FRONT = 10


def page(sweep: dict[str, Any]) -> str:
    """The page of a sweep. sweep: `SweepResult.to_dict()`."""
    title = pictures.title(sweep)
    image = base64.b64encode(pictures.draw(sweep, "png")).decode()
    columns = ["-v", sweep["effect"], "KL", "items"]
    parts = [
        f"<h1>{_text(title)}</h1>",
        f"<p>{_text(_verdict(sweep))}</p>",
        '<div class="wide"><img alt="effect and cost by layer and coefficient"'
        f' src="data:image/png;base64,{image}"></div>',
        "<h2>Evidence</h2>",
        _table(["", "value [95 % interval]"], _evidence(sweep)),
        "<h2>Front</h2>",
        "<p>The strongest cells of the Pareto front: no other has both more effect and less cost."
        "</p>",
        _table(columns, [_cell(c) for c in sweep["front"][-FRONT:]]),
        "<h2>Texts</h2>",
        _texts(sweep),
        "<h2>All cells</h2>",
        _table(columns, [_cell(c) for c in sweep["cells"]]),
        "<h2>Reproduce</h2>",
        f"<pre>{_text(sweep['command'])}</pre>",
        f'<p class="hashes">Weights {_text(sweep["fingerprint"])}, {_text(_hashes(sweep))}.</p>',
    ]
    return html_page(title, _STYLE, "\n".join(parts))


def _verdict(sweep: dict[str, Any]) -> str:
    choice = sweep["choice"]
    if not sweep["recommended"]:
        near = "" if choice is None else f" The nearest: {_named(choice)}."
        return f"Nothing is recommended: {sweep['reason']}.{near}"
    stable = "stable over halves of the items and texts"
    if not sweep["stable"]:
        unknown = "stability unknown" if sweep["stable"] is None else "but unstable"
        stable = f"{unknown}: {sweep['instability']}"
    return f"Recommended: {_named(choice)}, {stable}."


def _hashes(sweep: dict[str, Any]) -> str:
    return ", ".join(f"{vector['reference']} {vector['sha256']}" for vector in sweep["vectors"])


def _named(cell: dict[str, Any]) -> str:
    return str(cell["typed"])


def _evidence(sweep: dict[str, Any]) -> list[list[str]]:
    choice, n = sweep["choice"] or {}, sweep["n"]
    rows = [
        [f"{sweep['effect']}, {n['items']} held-out items", _interval(choice.get("effect"))],
        ["more than random directions of the same length", _interval(sweep["margin"])],
        ["random directions at their best layer (95 % bound)", _number(sweep["chance"])],
        [f"KL, {n['unrelated']} unrelated texts", _interval(choice.get("kl"))],
        [f"extra nats per token, {n['texts']} generated texts", _interval(sweep["extra_nats"])],
        ["distinct bigrams in a text", _interval(sweep["distinct"])],
    ]
    if sweep["effect"] == "preference" and sweep["shifts"]:
        rows.append(["pairs whose preference falls", f"{len(sweep['wrong_way'])} of {n['items']}"])
    budget = sweep["budget"]
    rows.append(["budget", f"KL at most {budget['kl']:g}, extra nats at most {budget['nats']:g}"])
    return rows


def _texts(sweep: dict[str, Any]) -> str:
    pairs = zip(sweep["unsteered_samples"][:4], sweep["samples"][:4], strict=False)
    titles = ("unsteered", "steered")
    return "".join(
        '<div class="pair">'
        + "".join(
            f"<div><h3>{title}</h3><pre>{_text(text)}</pre></div>"
            for title, text in zip(titles, pair, strict=True)
        )
        + "</div>"
        for pair in pairs
    )


def _cell(cell: dict[str, Any]) -> list[str]:
    intervals = [_interval(cell["effect"]), _interval(cell["kl"])]
    return [cell["typed"], *intervals, str(cell["items"])]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _interval(interval: dict[str, float] | None) -> str:
    if interval is None:
        return "–"
    return f"{interval['value']:.3g} [{interval['low']:.3g}, {interval['high']:.3g}]"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{_text(c)}</td>' for c in row)}</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _text(text: str) -> str:
    return html.escape(shown(text))
