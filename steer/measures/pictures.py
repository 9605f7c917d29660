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


def figure(sweep: dict[str, Any]) -> Any:
    """A matplotlib figure with effect, cost and the front. sweep: `SweepResult.to_dict()`.

    Raises:
        UsageError: matplotlib is not installed.
    """
    check_format(None)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    shape = len(sweep["rows"]), len(sweep["coefficients"][0])
    values = {
        name: np.array([cell[name]["value"] for cell in sweep["cells"]]).reshape(shape)
        for name in ("effect", "kl")
    }
    several = len(set(map(tuple, sweep["coefficients"]))) > 1
    height = min(9.0, max(3.4, 1.6 + (0.4 if several else 0.26) * shape[0]))
    with mpl.rc_context(_STYLE):
        drawing = Figure(figsize=(12, height), layout="constrained")
        axes = drawing.subplots(1, 3, width_ratios=[1.15, 1.15, 1])
        _heat(axes[0], values["effect"], values["kl"], sweep, f"effect: {sweep['effect']}")
        _heat(axes[1], values["kl"], values["kl"], sweep, "cost: KL (nats per token)", cost=True)
        _front(axes[2], values["effect"], values["kl"], sweep)
        named = f"{title(sweep)}, {sweep['n']['items']} held-out items"
        marks = "hatched: KL above budget; dotted: text cost above budget; ~: on some of the items"
        drawing.suptitle(f"{named} ({marks})")
    return drawing


def bars(rows: Sequence[tuple[str, Mapping[str, Interval]]], measures: Sequence[Measure]) -> Any:
    """A figure of an evaluation or a suite: a panel for each measure, a row for each label.

    Raises:
        UsageError: matplotlib is not installed.
    """
    check_format(None)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    labels = [label for label, _ in rows]
    with mpl.rc_context(_STYLE):
        drawing = Figure(
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


def _heat(
    axes: Any, values: Any, costs: Any, sweep: dict[str, Any], title: str, *, cost: bool = False
) -> None:
    """A heat map: cells above the KL budget hatched, above the text budget dotted, and the choice
    in a double frame."""
    from matplotlib.patches import Rectangle

    within = costs <= sweep["budget"]["kl"]
    refused, items = (
        np.array([cell[name] for cell in sweep["cells"]]).reshape(values.shape)
        for name in ("refused", "items")
    )
    looked = items < sweep["n"]["items"]
    # Cells above the budget do not stretch the ramp.
    shown = values[within] if within.any() else values
    low, high = float(shown.min()), float(shown.max())
    if not cost and high > 0:
        # Nor do strongly negative effects, which would make all positive ones look alike.
        low = max(low, -high)
    ramp = f"{RAMP}_r" if cost else RAMP
    # Finer rows and rows of other ops have coefficients of their own, which are in the cells.
    heads = sweep["coefficients"]
    image = axes.imshow(values, aspect="auto", origin="lower", cmap=ramp, vmin=low, vmax=high)
    chosen = {_chosen_cell(sweep)} if sweep["recommended"] else set()
    for (row, column), value in np.ndenumerate(values):
        red, green, blue, _ = image.cmap(image.norm(value))
        ink = "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 0.45 else "white"
        if not within[row, column]:
            patch = Rectangle((column - 0.5, row - 0.5), 1, 1, hatch="////", linewidth=0)
            patch.set(facecolor="white", edgecolor="0.75")
            axes.add_patch(patch)
            ink = "black"
        elif refused[row, column]:
            patch = Rectangle((column - 0.5, row - 0.5), 1, 1, hatch=".", linewidth=0)
            patch.set(fill=False, edgecolor=ink, alpha=0.35)
            axes.add_patch(patch)
        if values.shape[0] <= 16:
            text = f"{value:.3f}" if cost and value < 1 else f"{value:.2f}"
            text += "~" if looked[row, column] else ""
            if heads[row] != heads[0]:
                text = f"{heads[row][column]}\n{text}"
            heavy = "bold" if (row, column) in chosen else "normal"
            axes.text(
                column, row, text, ha="center", va="center", color=ink, size=6.5, weight=heavy
            )
    for row, column in chosen:
        for colour, width in (("white", 4.5), ("black", 2.0)):
            frame = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, zorder=3)
            frame.set(edgecolor=colour, linewidth=width)
            axes.add_patch(frame)
    for row in range(1, len(heads)):
        if heads[row] != heads[row - 1]:
            axes.axhline(row - 0.5, color="black", linewidth=1.5)
    axes.set_xticks(range(len(heads[0])), heads[0], rotation=45)
    # The two maps are side by side, so only the first names the rows.
    names = sweep["rows"]
    axes.set_yticks(range(len(names)), [""] * len(names) if cost else names)
    axes.set(title=title, xlabel="coefficient")


def _front(axes: Any, effects: Any, costs: Any, sweep: dict[str, Any]) -> None:
    """Every cell by cost and effect, with lines for the front and the budget."""
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
