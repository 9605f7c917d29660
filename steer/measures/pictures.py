"""A sweep drawn: effect and cost by layer and coefficient, and the front between the two.

Readable in print and by the colour-blind: one ramp from dark to light, and what matters (the
choice, what is above the budget) is drawn as a line or a pattern, never by colour alone.
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
#: Where a file's format has a date or a version, it is left out: the same sweep, the same bytes.
_UNDATED: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    "svg": {"Date": None},
}


def check_format(path: Path | None) -> None:
    """Find out before the work whether it can be drawn after it.

    Raises:
        UsageError: matplotlib is not there, or the file's ending is none of `FORMATS`.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("drawing needs matplotlib", hint="pip install 'steer-activations[plots]'")
    if path is not None and path.suffix not in FORMATS:
        raise UsageError(f"{path} does not end in {', '.join(FORMATS)}")


def draw(told: dict[str, Any], kind: str) -> bytes:
    """The picture of a sweep, as `SweepResult.to_dict` gives it, as `png`, `pdf` or `svg`."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        file = io.BytesIO()
        figure(told).savefig(file, format=kind, dpi=150, metadata=_UNDATED[kind])
    return file.getvalue()


def _figure(**settings: Any) -> Any:
    """A figure of matplotlib's that a notebook shows, whatever backend it has."""
    from matplotlib.figure import Figure

    class Shown(Figure):
        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png", dpi=100)
            return file.getvalue()

    return Shown(**settings)


def figure(told: dict[str, Any]) -> Any:
    """The figure of matplotlib: effect, cost, and the front.

    Raises:
        UsageError: matplotlib is not there.
    """
    check_format(None)
    import matplotlib as mpl

    n_rows = len(told["rows"])
    blocks = _blocks(told["coefficients"])
    with mpl.rc_context(_STYLE):
        made = _figure(
            figsize=(12, max(3.4, 1.6 + 0.27 * n_rows + 0.6 * (len(blocks) - 1))),
            layout="constrained",
        )
        # Rows with other coefficients have an axis of their own; the first block is lowest.
        heights = [len(block) for block in reversed(blocks)]
        grid = made.add_gridspec(
            len(blocks), 3, width_ratios=[1.15, 1.15, 1], height_ratios=heights
        )
        for column, cost in ((0, False), (1, True)):
            for number, block in enumerate(blocks):
                axes = made.add_subplot(grid[len(blocks) - 1 - number, column])
                _heat(axes, told, block, cost=cost)
                top, bottom = number == len(blocks) - 1, number == 0
                if top:
                    axes.set_title("cost: KL (nats/token)" if cost else f"effect: {told['effect']}")
                if bottom:
                    axes.set_xlabel("coefficient")
        _front(made.add_subplot(grid[:, 2]), told)
        named = f"{title(told)}, {told['n']['items']} held-out items"
        marks = "hatched: KL above the budget; dotted: texts above theirs; ~: by some of the items"
        made.suptitle(f"{named}\n{marks}", fontsize=9)
    return made


def _blocks(coefficients: Sequence[Sequence[str]]) -> list[range]:
    """Neighbouring rows with the same coefficients."""
    starts = [
        row
        for row, heads in enumerate(coefficients)
        if not row or list(heads) != list(coefficients[row - 1])
    ]
    return [range(a, b) for a, b in zip(starts, [*starts[1:], len(coefficients)], strict=True)]


def _values(told: dict[str, Any], name: str) -> Any:
    """A number of each cell, [rows, coefficients]."""
    shape = len(told["rows"]), len(told["coefficients"][0])
    cells = [cell[name] for cell in told["cells"]]
    return np.array([c["value"] if isinstance(c, dict) else c for c in cells]).reshape(shape)


def bars(rows: Sequence[tuple[str, Mapping[str, Interval]]], measures: Sequence[Measure]) -> Any:
    """The figure of an evaluation or a suite: a panel for each measure, a row for each label.

    Raises:
        UsageError: matplotlib is not there.
    """
    check_format(None)
    import matplotlib as mpl

    labels = [label for label, _ in rows]
    with mpl.rc_context(_STYLE):
        made = _figure(
            figsize=(2 + 2.2 * max(1, len(measures)), 1.2 + 0.3 * len(rows)), layout="constrained"
        )
        panels = made.subplots(1, max(1, len(measures)), sharey=True, squeeze=False)[0]
        for axes, measure in zip(panels, measures, strict=False):
            for number, (_, found) in enumerate(rows):
                one = found.get(measure.name)
                if one is not None and np.isfinite(one.value):
                    axes.plot([one.low, one.high], [number, number], color="#575d6d", linewidth=2)
                    axes.plot([one.value], [number], "o", color="#00224e", markersize=5)
            axes.axvline(0, color="0.8", linewidth=0.8, zorder=0)
            axes.set(title=measure.title, xlabel=measure.unit)
        panels[0].set_yticks(range(len(labels)), labels)
        panels[0].set_ylim(len(labels) - 0.5, -0.5)
    return made


def title(told: dict[str, Any]) -> str:
    """What was swept, and on which model."""
    return f"{', '.join(one['name'] for one in told['vectors'])} on {told['model']}"


def _heat(axes: Any, told: dict[str, Any], block: range, *, cost: bool) -> None:
    """The rows of a block: numbers on a ramp; above the budget hatched, or by its texts dotted; the
    choice in a double frame."""
    from matplotlib.patches import Rectangle

    costs = _values(told, "kl")
    every = costs if cost else _values(told, "effect")
    within = costs <= told["budget"]["kl"]
    refused, looked = _values(told, "refused"), _values(told, "items") < told["n"]["items"]
    # What is above the budget does not stretch the ramp, which all blocks share.
    shown = every[within] if within.any() else every
    low, high = float(shown.min()), float(shown.max())
    if not cost and high > 0:
        # Nor does harm, beside which all that helps would look alike.
        low = max(low, -high)
    values = every[block.start : block.stop]
    heads = told["coefficients"][block.start]
    ramp = f"{RAMP}_r" if cost else RAMP
    image = axes.imshow(values, aspect="auto", origin="lower", cmap=ramp, vmin=low, vmax=high)
    chosen = {_place(told)} if told["recommended"] else set()
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
    # The two maps stand side by side: the second has the rows of the first.
    names = told["rows"][block.start : block.stop]
    axes.set_yticks(range(len(names)), [""] * len(names) if cost else names)


def _front(axes: Any, told: dict[str, Any]) -> None:
    """Every cell by cost and effect, the front as a line, the budget as another."""
    effects, costs = _values(told, "effect"), _values(told, "kl")
    floor = 1e-5  # a logarithm has no place for 0
    axes.scatter(
        np.maximum(costs, floor), effects, s=12, color="0.7", label="cells", edgecolor="none"
    )
    front = [(max(one["kl"]["value"], floor), one["effect"]["value"]) for one in told["front"]]
    axes.plot(*zip(*front, strict=True), color="#00224e", marker=".", label="front")
    axes.axvline(told["budget"]["kl"], color="black", linestyle="--", linewidth=1, label="budget")
    choice = told["choice"]
    if choice is not None:
        effect, cost = choice["effect"], max(choice["kl"]["value"], floor)
        bars = [[effect["value"] - effect["low"]], [effect["high"] - effect["value"]]]
        label = "choice" if told["recommended"] else "nearest, not recommended"
        axes.errorbar(
            [cost], [effect["value"]], bars, fmt="*", color="#b8860b", markersize=13, capsize=3,
            markeredgecolor="black", label=label, zorder=3,
        )  # fmt: skip
        random = told["random_effects"]
        if random:
            axes.scatter(
                [cost] * len(random), random, marker="x", color="black", s=22, zorder=3,
                label="random directions",
            )  # fmt: skip
    axes.set_xscale("log")
    reach = [*effects[costs <= told["budget"]["kl"]].ravel(), *told["random_effects"], 0.0]
    if choice is not None:
        reach += [choice["effect"]["low"], choice["effect"]["high"]]
    room = 0.08 * (max(reach) - min(reach)) or 1.0
    axes.set_ylim(min(reach) - room, max(reach) + room)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set(title="effect against cost", xlabel="KL (nats per token)", ylabel=told["effect"])
    axes.legend(fontsize=7, loc="best", frameon=True)


def _place(told: dict[str, Any]) -> tuple[int, int]:
    """Row and column of the choice."""
    typed = [cell["typed"] for cell in told["cells"]]
    row, column = divmod(typed.index(told["choice"]["typed"]), len(told["coefficients"][0]))
    return row, column
