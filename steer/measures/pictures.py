"""Pictures of a sweep: effect and cost by layer and coefficient, and the front between the two.

Readable in print and by the colour-blind: one ramp from dark to light; lines and patterns, not
colours, mark the choice and the cells above the budget.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steer.base.errors import UsageError
from steer.base.intervals import Interval
from steer.measures.measure import Measure

FORMATS = (".png", ".pdf", ".svg")
RAMP = "cividis"
_STYLE = {"svg.hashsalt": "steer", "font.size": 9}
#: Leaves out dates and versions, so that the same sweep gives the same bytes.
_UNDATED: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    "svg": {"Date": None},
}


def check_format(path: Path | None) -> None:
    """Check before the work that its results can be drawn.

    Raises:
        UsageError: matplotlib is not installed, or the file's ending is none of `FORMATS`.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("drawing needs matplotlib", hint="pip install 'steer-activations[plots]'")
    if path is not None and path.suffix not in FORMATS:
        raise UsageError(f"{path} does not end in {', '.join(FORMATS)}")


def draw(sweep: dict[str, Any], kind: str) -> bytes:
    """The picture of a sweep as `png`, `pdf` or `svg`. sweep: `SweepResult.to_dict()`."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        file = io.BytesIO()
        figure(sweep).savefig(file, format=kind, dpi=150, metadata=_UNDATED[kind])
    return file.getvalue()


def _figure(**settings: Any) -> Any:
    """A figure of matplotlib's that a notebook shows, whatever backend it has."""
    from matplotlib.figure import Figure

    class PngFigure(Figure):
        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png", dpi=100)
            return file.getvalue()

    return PngFigure(**settings)


def figure(sweep: dict[str, Any]) -> Any:
    """A matplotlib figure with effect, cost and the front. sweep: `SweepResult.to_dict()`.

    Raises:
        UsageError: matplotlib is not installed.
    """
    check_format(None)
    import matplotlib as mpl

    n_rows = len(sweep["rows"])
    blocks = _blocks(sweep["coefficients"])
    with mpl.rc_context(_STYLE):
        drawing = _figure(
            figsize=(12, max(3.4, 1.6 + 0.27 * n_rows + 0.6 * (len(blocks) - 1))),
            layout="constrained",
        )
        # Rows with other coefficients have an axis of their own; the first block is lowest.
        heights = [len(block) for block in reversed(blocks)]
        grid = drawing.add_gridspec(
            len(blocks), 3, width_ratios=[1.15, 1.15, 1], height_ratios=heights
        )
        for column, cost in ((0, False), (1, True)):
            for number, block in enumerate(blocks):
                axes = drawing.add_subplot(grid[len(blocks) - 1 - number, column])
                _heat(axes, sweep, block, cost=cost)
                top, bottom = number == len(blocks) - 1, number == 0
                if top:
                    axes.set_title(
                        "cost: KL (nats/token)" if cost else f"effect: {sweep['effect']}"
                    )
                if bottom:
                    axes.set_xlabel("coefficient")
        _front(drawing.add_subplot(grid[:, 2]), sweep)
        named = f"{title(sweep)}, {sweep['n']['items']} held-out items"
        marks = "hatched: KL above budget; dotted: text cost above budget; ~: on some of the items"
        drawing.suptitle(f"{named}\n{marks}", fontsize=9)
    return drawing


def _blocks(coefficients: Sequence[Sequence[str]]) -> list[range]:
    """Neighbouring rows with the same coefficients."""
    starts = [
        row
        for row, heads in enumerate(coefficients)
        if not row or list(heads) != list(coefficients[row - 1])
    ]
    return [range(a, b) for a, b in zip(starts, [*starts[1:], len(coefficients)], strict=True)]


def _values(sweep: dict[str, Any], name: str) -> Any:
    """A number of each cell, [rows, coefficients]."""
    shape = len(sweep["rows"]), len(sweep["coefficients"][0])
    cells = [cell[name] for cell in sweep["cells"]]
    return np.array([c["value"] if isinstance(c, dict) else c for c in cells]).reshape(shape)


def bars(rows: Sequence[tuple[str, Mapping[str, Interval]]], measures: Sequence[Measure]) -> Any:
    """A figure of an evaluation or a suite: a panel for each measure, a row for each label.

    Raises:
        UsageError: matplotlib is not installed.
    """
    check_format(None)
    import matplotlib as mpl

    labels = [label for label, _ in rows]
    with mpl.rc_context(_STYLE):
        drawing = _figure(
            figsize=(2 + 2.2 * max(1, len(measures)), 1.2 + 0.3 * len(rows)), layout="constrained"
        )
        panels = drawing.subplots(1, max(1, len(measures)), sharey=True, squeeze=False)[0]
        for axes, measure in zip(panels, measures, strict=False):
            for number, (_, results) in enumerate(rows):
                interval = results.get(measure.name)
                if interval is not None and np.isfinite(interval.value):
                    ends = [interval.low, interval.high]
                    axes.plot(ends, [number, number], color="#575d6d", linewidth=2)
                    axes.plot([interval.value], [number], "o", color="#00224e", markersize=5)
            axes.axvline(0, color="0.8", linewidth=0.8, zorder=0)
            axes.set(title=measure.title, xlabel=measure.unit)
        panels[0].set_yticks(range(len(labels)), labels)
        panels[0].set_ylim(len(labels) - 0.5, -0.5)
    return drawing


def title(sweep: dict[str, Any]) -> str:
    """The names of the vectors and of the model."""
    return f"{', '.join(vector['name'] for vector in sweep['vectors'])} on {sweep['model']}"


def _heat(axes: Any, sweep: dict[str, Any], block: range, *, cost: bool) -> None:
    """The rows of a block: numbers on a ramp; above the budget hatched, or by its texts dotted; the
    choice in a double frame."""
    from matplotlib.patches import Rectangle

    costs = _values(sweep, "kl")
    every = costs if cost else _values(sweep, "effect")
    within = costs <= sweep["budget"]["kl"]
    refused, looked = _values(sweep, "refused"), _values(sweep, "items") < sweep["n"]["items"]
    # Cells above the budget do not stretch the ramp, which all blocks share.
    shown = every[within] if within.any() else every
    low, high = float(shown.min()), float(shown.max())
    if not cost and high > 0:
        # Nor do strongly negative effects, which would make all positive ones look alike.
        low = max(low, -high)
    values = every[block.start : block.stop]
    heads = sweep["coefficients"][block.start]
    ramp = f"{RAMP}_r" if cost else RAMP
    image = axes.imshow(values, aspect="auto", origin="lower", cmap=ramp, vmin=low, vmax=high)
    chosen = {_chosen_cell(sweep)} if sweep["recommended"] else set()
    for (line, column), value in np.ndenumerate(values):
        row = block.start + line
        red, green, blue, _ = image.cmap(image.norm(value))
        ink = "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 0.45 else "white"
        if not within[row, column]:
            patch = Rectangle((column - 0.5, line - 0.5), 1, 1, hatch="////", linewidth=0)
            patch.set(facecolor="white", edgecolor="0.75")
            axes.add_patch(patch)
            ink = "black"
        elif refused[row, column]:
            patch = Rectangle((column - 0.5, line - 0.5), 1, 1, hatch=".", linewidth=0)
            patch.set(fill=False, edgecolor=ink, alpha=0.35)
            axes.add_patch(patch)
        text = f"{value:.3f}" if cost and value < 1 else f"{value:.2f}"
        text += "~" if looked[row, column] else ""
        heavy = "bold" if (row, column) in chosen else "normal"
        axes.text(column, line, text, ha="center", va="center", color=ink, size=6.5, weight=heavy)
        if (row, column) in chosen:
            for colour, width in (("white", 4.5), ("black", 2.0)):
                frame = Rectangle((column - 0.5, line - 0.5), 1, 1, fill=False, zorder=3)
                frame.set(edgecolor=colour, linewidth=width)
                axes.add_patch(frame)
    axes.set_xticks(range(len(heads)), heads, rotation=45)
    # The two maps are side by side, so the second needs no names of rows.
    names = sweep["rows"][block.start : block.stop]
    axes.set_yticks(range(len(names)), [""] * len(names) if cost else names)


def _front(axes: Any, sweep: dict[str, Any]) -> None:
    """Every cell by cost and effect, with lines for the front and the budget."""
    effects, costs = _values(sweep, "effect"), _values(sweep, "kl")
    floor = 1e-5  # a logarithmic axis has no 0
    axes.scatter(
        np.maximum(costs, floor), effects, s=12, color="0.7", label="cells", edgecolor="none"
    )
    front = [(max(cell["kl"]["value"], floor), cell["effect"]["value"]) for cell in sweep["front"]]
    axes.plot(*zip(*front, strict=True), color="#00224e", marker=".", label="front")
    axes.axvline(sweep["budget"]["kl"], color="black", linestyle="--", linewidth=1, label="budget")
    choice = sweep["choice"]
    if choice is not None:
        effect, cost = choice["effect"], max(choice["kl"]["value"], floor)
        bars = [[effect["value"] - effect["low"]], [effect["high"] - effect["value"]]]
        label = "choice" if sweep["recommended"] else "nearest, not recommended"
        axes.errorbar(
            [cost], [effect["value"]], bars, fmt="*", color="#b8860b", markersize=13, capsize=3,
            markeredgecolor="black", label=label, zorder=3,
        )  # fmt: skip
        random = sweep["random_effects"]
        if random:
            axes.scatter(
                [cost] * len(random), random, marker="x", color="black", s=22, zorder=3,
                label="random directions",
            )  # fmt: skip
    axes.set_xscale("log")
    reach = [*effects[costs <= sweep["budget"]["kl"]].ravel(), *sweep["random_effects"], 0.0]
    if choice is not None:
        reach += [choice["effect"]["low"], choice["effect"]["high"]]
    room = 0.08 * (max(reach) - min(reach)) or 1.0
    axes.set_ylim(min(reach) - room, max(reach) + room)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set(title="effect against cost", xlabel="KL (nats per token)", ylabel=sweep["effect"])
    axes.legend(fontsize=7, loc="best", frameon=True)


def _chosen_cell(sweep: dict[str, Any]) -> tuple[int, int]:
    """Row and column of the choice."""
    typed = [cell["typed"] for cell in sweep["cells"]]
    row, column = divmod(typed.index(sweep["choice"]["typed"]), len(sweep["coefficients"][0]))
    return row, column
