"""What `steer sweep` prints when it is done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steer.cli import output

if TYPE_CHECKING:
    from steer.evaluation.findings import Findings
    from steer.models.model import Model

#: Cells of the front that are shown, the strongest.
FRONT = 8


def hint(told: dict[str, Any]) -> str:
    """What to do where nothing is recommended: the nearest cell, to be tried or allowed."""
    choice = told["choice"]
    if choice is None:
        return "is the vector right, and its sign? see `steer show`"
    effect, cost = choice["effect"]["value"], choice["kl"]["value"]
    nats = told["extra_nats"] and f", extra nats {told['extra_nats']['value']:.3f}"
    return f"the nearest cell is {choice['typed']}: effect {effect:.2f}, KL {cost:.3g}{nats or ''}"


def show(model: Model, made: Findings, told: dict[str, Any]) -> None:
    """The result: every cell, the front, and what is recommended."""
    from steer.cli.heat import LOOKED, heat_map

    choice = made.verdict.place if made.verdict.recommended else None
    grid, width = made.verdict.grid, output.width()
    output.show(heat_map(made.plan, grid, made.budget.kl, choice=choice, width=width))
    output.line()
    output.line(
        f"in brackets: KL above {made.budget.kl:g} nats per token"
        + "; *: the choice" * bool(choice)
    )
    n_items = [one["items"] for one in told["cells"]]
    some = [n for n in n_items if n < told["n"]["items"]]
    if some:
        seen = str(min(some)) if min(some) == max(some) else f"{min(some)} to {max(some)}"
        output.line(
            f"{LOOKED}, and most in brackets: left out after {seen} of {told['n']['items']} items"
            f" ({len(some)} of {len(n_items)} cells); --exhaustive scores all"
        )
    output.line()

    def mark(cell: dict[str, Any]) -> str:
        return LOOKED if cell["items"] < told["n"]["items"] else " "

    output.table(
        ["front", "effect", "KL"],
        [
            [one["typed"], _told(one["effect"]) + mark(one), _told(one["kl"], 3) + mark(one)]
            for one in told["front"][-FRONT:]
        ],
        left=1,
    )
    output.line()
    if made.verdict.recommended:
        for text in _verdict(told):
            output.line(text)
    n = told["n"]
    output.line(
        f"{model.describe()} · {n['items']} held-out items, {n['unrelated']} unrelated texts, seed"
        f" {told['seed']} · in brackets 95 % intervals"
    )
    output.line(f"again: {told['command']}")


def _verdict(told: dict[str, Any]) -> list[str]:
    """What is recommended, and what speaks for and against it."""
    choice, n = told["choice"], told["n"]
    lines = [
        f"recommended: {choice['typed']}",
        f"  {told['effect']} {_told(choice['effect'])}; random directions as long"
        f" {min(told['random_effects']):.2f} to {max(told['random_effects']):.2f}"
        f" ({len(told['random_effects'])} seeds), by chance {told['chance']:.2f} at the best layer",
        f"  KL {_told(choice['kl'], 3)}; extra nats {_told(told['extra_nats'])} and distinct-2"
        f" {_told(told['distinct'])} of {n['texts']} written texts",
    ]
    budget = told["budget"]
    n_out = sum(
        one["refused"]
        and one["kl"]["value"] <= budget["kl"]
        and one["effect"]["value"] > choice["effect"]["value"]
        for one in told["cells"]
    )
    if n_out:
        lines.append(
            f"  stronger, but out for more than {budget['nats']:g} extra nats: {n_out} of the cells"
        )
    wrong = told["wrong_way"]
    which = ", ".join(str(index + 1) for index in wrong[:8])
    items = "pairs" if told["effect"] == "preference" else "texts"
    lines.append(
        f"  {len(wrong)} of {n['items']} {items} move the wrong way"
        + (f", the worst first: {which}" if wrong else "")
    )
    again = told["again"]
    lines.append(f"  with seed {again['seed']} extra nats {_told(again['extra_nats'])}")
    if told["stable"]:
        lines.append(
            "  stable: each half of the items, one with texts by that seed, leads to a neighbouring"
            " layer and effect"
        )
    else:
        lines.append(f"  unstable: {told['instability']}")
    return lines


def _told(interval: dict[str, float] | None, digits: int = 2) -> str:
    if interval is None:
        return "–"
    value, low, high = (f"{interval[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
