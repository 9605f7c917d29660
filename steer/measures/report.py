"""One HTML page with everything that a sweep found; it needs nothing beside itself."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import Any

from steer.base.files import shown
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


#: Cells of the front that stand before the texts; all cells stand behind them.
FRONT = 10


def page(told: dict[str, Any]) -> str:
    """The page of a sweep, as `SweepResult.to_dict` gives it."""
    title = pictures.title(told)
    image = base64.b64encode(pictures.draw(told, "png")).decode()
    columns = ["-v", told["effect"], "KL", "items"]
    parts = [
        f"<h1>{_text(title)}</h1>",
        f"<p>{_text(_verdict(told))}</p>",
        '<div class="wide"><img alt="effect and cost by layer and coefficient"'
        f' src="data:image/png;base64,{image}"></div>',
        "<h2>Evidence</h2>",
        _table(["", "value [95 % interval]"], _evidence(told)),
        "<h2>Front</h2>",
        "<p>Cells that no other beats in effect and cost at once; the strongest.</p>",
        _table(columns, [_cell(c) for c in told["front"][-FRONT:]]),
        "<h2>Texts</h2>",
        _texts(told),
        "<h2>All cells</h2>",
        _table(columns, [_cell(c) for c in told["cells"]]),
        "<h2>Again</h2>",
        f"<pre>{_text(told['command'])}</pre>",
        f'<p class="hashes">Weights {_text(told["fingerprint"])}, {_text(_hashes(told))}.</p>',
    ]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _verdict(told: dict[str, Any]) -> str:
    choice = told["choice"]
    if not told["recommended"]:
        near = "" if choice is None else f" The nearest: {_named(choice)}."
        return f"Nothing is recommended: {told['reason']}.{near}"
    stable = "stable over halves of the items and texts"
    if not told["stable"]:
        unknown = "stability unknown" if told["stable"] is None else "but unstable"
        stable = f"{unknown}: {told['instability']}"
    return f"Recommended: {_named(choice)}, {stable}."


def _hashes(told: dict[str, Any]) -> str:
    return ", ".join(f"{one['reference']} {one['sha256']}" for one in told["vectors"])


def _named(cell: dict[str, Any]) -> str:
    return str(cell["typed"])


def _evidence(told: dict[str, Any]) -> list[list[str]]:
    choice, n = told["choice"] or {}, told["n"]
    rows = [
        [f"{told['effect']}, {n['items']} held-out items", _interval(choice.get("effect"))],
        ["more than random directions as long", _interval(told["margin"])],
        ["such directions at the best layer, by chance", _number(told["chance"])],
        [f"KL, {n['unrelated']} unrelated texts", _interval(choice.get("kl"))],
        [f"extra nats per token, {n['texts']} written texts", _interval(told["extra_nats"])],
        ["distinct bigrams in a text", _interval(told["distinct"])],
    ]
    if told["effect"] == "preference" and told["shifts"]:
        rows.append(["pairs that move the wrong way", f"{len(told['wrong_way'])} of {n['items']}"])
    budget = told["budget"]
    rows.append(["budget", f"KL at most {budget['kl']:g}, extra nats at most {budget['nats']:g}"])
    return rows


def _texts(told: dict[str, Any]) -> str:
    pairs = zip(told["unsteered_samples"][:4], told["samples"][:4], strict=False)
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


def _number(told: float | None) -> str:
    return "–" if told is None else f"{told:.3g}"


def _interval(told: dict[str, float] | None) -> str:
    if told is None:
        return "–"
    return f"{told['value']:.3g} [{told['low']:.3g}, {told['high']:.3g}]"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{_text(c)}</td>' for c in row)}</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _text(text: str) -> str:
    return html.escape(shown(text))
