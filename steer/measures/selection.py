"""Which of many settings to take, by rules that have names. Numbers in, indices out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Rule = Literal["budget", "refusal_direction"]

#: Thresholds of `refusal_direction`, as its authors have them.
PRUNED_SHARE = 0.2
MAX_KL = 0.1
LEAST_INDUCED = 0.0


def strongest(effects: Sequence[float], costs: Sequence[float], budget: float) -> int | None:
    """Rule `budget`: the largest effect above 0 at a cost of at most `budget`; None if none is."""
    within = [
        index
        for index, (effect, cost) in enumerate(zip(effects, costs, strict=True))
        if cost <= budget and effect > 0
    ]
    return max(within, key=lambda index: effects[index], default=None)


def nearest(effects: Sequence[float], costs: Sequence[float]) -> int | None:
    """Where nothing is within the budget: of what has an effect above 0, that which costs least."""
    working = [index for index, effect in enumerate(effects) if effect > 0]
    return min(working, key=lambda index: costs[index], default=None)


def pareto(
    effects: Sequence[float], costs: Sequence[float], whole: Sequence[bool] | None = None
) -> list[int]:
    """Those that no other beats in effect and cost at once, the cheapest first; NaN is none.

    whole: whether each was scored on everything. One that was not, whose numbers may be luck, hides
    none that was.
    """
    known = [index for index, effect in enumerate(effects) if not math.isnan(effect)]
    front = _front(known, effects, costs)
    if whole is not None:
        front += _front([index for index in known if whole[index]], effects, costs)
    return sorted(set(front), key=lambda index: (costs[index], effects[index]))


def _front(known: Sequence[int], effects: Sequence[float], costs: Sequence[float]) -> list[int]:
    order = sorted(known, key=lambda index: (costs[index], -effects[index]))
    front: list[int] = []
    for index in order:
        if not front or effects[index] > effects[front[-1]]:
            front.append(index)
    return front


@dataclass(frozen=True, slots=True)
class Candidate:
    """A direction of one layer, by what becomes of the model when it is taken out or added.

    removed: the concept's score without the direction, on texts that call for it; lower is better.
    induced: its score with the direction added, on texts that do not. kl: of what is neither.
    """

    layer: int
    removed: float
    induced: float
    kl: float


def refusal_direction(candidates: Sequence[Candidate], n_layers: int) -> list[int]:
    """Rule of refusal_direction: those that pass its filter, the choice first.

    Layers of the last fifth are left out, and what drifts by more than 0.1 nats when it is taken
    out or does not induce the concept when added; of the rest the most thorough removal. Arditi et
    al. 2024 (arXiv 2406.11717, appendix C).
    """
    stop = int((1 - PRUNED_SHARE) * n_layers)
    passed = [
        index
        for index, one in enumerate(candidates)
        if not any(map(math.isnan, (one.removed, one.induced, one.kl)))
        and one.layer < stop
        and one.kl <= MAX_KL
        and one.induced >= LEAST_INDUCED
    ]
    return sorted(passed, key=lambda index: candidates[index].removed)
