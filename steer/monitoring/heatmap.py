"""Numbers as colours, and traced texts as one self-contained HTML page.

The scale diverges from blue to orange through near white. People with any common form of colour
blindness can distinguish the two ends, which are equally dark.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from steer.base.files import shown
from steer.monitoring.traces import Trace, reach, summarise
from steer.steering.readouts import Readout

Colour = tuple[int, int, int]

#: From far below the middle to far above it.
N_STEPS = 21
_BELOW, _MIDDLE, _ABOVE = (33, 102, 172), (247, 247, 247), (179, 88, 6)


def step(value: float, middle: float, reach: float) -> int:
    """The number of the colour, of `N_STEPS`, for a value; clipped at `reach` from the middle."""
    half = N_STEPS // 2
    return half + round(max(-1.0, min(1.0, (value - middle) / reach)) * half)


def colour(number: int) -> Colour:
    """The background of a step, 8-bit red, green and blue."""
    half = N_STEPS // 2
    end = _ABOVE if number > half else _BELOW
    share = abs(number - half) / half
    red, green, blue = (round(m + share * (e - m)) for m, e in zip(_MIDDLE, end, strict=True))
    return red, green, blue


def ink(background: Colour) -> Colour:
    """Black or white, whichever reads better on a background (WCAG 2.2, relative luminance)."""
    # The two contrasts, (Y + 0.05) / 0.05 and 1.05 / (Y + 0.05), meet at Y = 0.179.
    return (0, 0, 0) if luminance(background) > 0.179 else (255, 255, 255)


def luminance(colour: Colour) -> float:
    """Relative luminance of an sRGB colour, 0 black to 1 white (WCAG 2.2)."""
    channels = [channel / 255 for channel in colour]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def hex_code(colour: Colour) -> str:
    """`#f7f7f7`."""
    return "#" + "".join(f"{channel:02x}" for channel in colour)


def meaning(readout: Readout) -> tuple[str, str, str]:
    """Labels for the low end, the middle and the high end of a readout's scale."""
    if readout.unit == "activation":
        return "against it", "0", "along it"
    return "0 negative side", "0.5", "1 positive"


_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1rem; margin: 2rem 0 .5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .2rem .9rem .2rem 0; text-align: right; font-variant-numeric: tabular-nums; }
th.w, td.w { text-align: left; overflow-wrap: break-word; }
p.t { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.9; margin: .3rem 0 1rem; }
p.t span { padding: .15em 0; border-radius: .15em; }
.s { opacity: .5; font-size: .8em; }
.l span { display: inline-block; width: 1.2em; }
small { opacity: .75; }
"""


def page(title: str, traces: Sequence[Trace], readouts: Sequence[Readout]) -> str:
    """A whole page: a table of summaries, then each text once per readout with coloured tokens.

    The page loads no other file and runs no script. All text is escaped, and control characters
    are replaced.
    """
    reaches = [reach(traces, column, readout) for column, readout in enumerate(readouts)]
    steps = (
        f".c{number} {{ background: {hex_code(colour(number))};"
        f" color: {hex_code(ink(colour(number)))}; }}\n"
        for number in range(N_STEPS)
    )
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta http-equiv="Content-Security-Policy"'
        " content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_safe(title)}</title>\n<style>{_STYLE}{''.join(steps)}</style>\n</head>\n<body>",
        f"<h1>{_safe(title)}</h1>",
        *(_legend(readout, far) for readout, far in zip(readouts, reaches, strict=True)),
        _summaries(traces, readouts),
    ]
    for number, trace in enumerate(traces, 1):
        parts.append(f'<h2 id="t{number}">text {number}</h2>')
        for column, readout in enumerate(readouts):
            parts.append(f"<small>{_safe(readout)}</small>")
            parts.append(_coloured(trace, column, readout, reaches[column]))
    return "\n".join([*parts, "</body>\n</html>\n"])


def _safe(text: object) -> str:
    return html.escape(shown(text))


def _legend(readout: Readout, far: float) -> str:
    low, middle, high = map(_safe, meaning(readout))
    bar = "".join(f'<span class="c{number}">&nbsp;</span>' for number in range(0, N_STEPS, 2))
    ends = (f"{readout.middle - far:.2g}", f"{readout.middle + far:.2g}")
    threshold = readout.threshold
    fitted = "" if threshold is None else f" · threshold {threshold:.2f}"
    return (
        f'<p class="l">{_safe(readout)}<br>{ends[0]} {bar} {ends[1]}<br>'
        f"<small>{low} · {middle} · {high}{fitted}</small></p>"
    )


def _summaries(traces: Sequence[Trace], readouts: Sequence[Readout]) -> str:
    rows = []
    for number, trace in enumerate(traces, 1):
        for column, readout in enumerate(readouts):
            summary = summarise(trace, column, readout)
            cells = (summary.max, summary.mean, summary.last)
            rows.append(
                f'<tr><td class="w"><a href="#t{number}">text {number}</a></td>'
                f'<td class="w">{_safe(readout)}</td>'
                + "".join(f"<td>{value:.2f}</td>" for value in cells)
                + f'<td class="w">{_safe(trace.tokens[summary.max_at].text.strip())}</td>'
                f'<td class="w">{summary.side or ""}</td></tr>'
            )
    head = '<th class="w">text<th class="w">vector<th>max<th>mean<th>last<th class="w">max at'
    table = f'<table>\n<tr>{head}<th class="w">side</tr>\n' + "\n".join(rows) + "\n</table>"
    return f'<div class="wide">{table}</div>'


def _coloured(trace: Trace, column: int, readout: Readout, far: float) -> str:
    spans = []
    for token, value in zip(trace.tokens, trace.values[:, column], strict=True):
        text = _safe(token.text)
        kind = "s" if token.special else f"c{step(float(value), readout.middle, far)}"
        spans.append(f'<span class="{kind}" title="{float(value):.3f}">{text}</span>')
    return f'<p class="t">{"".join(spans)}</p>'
