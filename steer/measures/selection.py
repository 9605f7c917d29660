"""Named rules for the choice among many settings. Numbers in, indices out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Rule = Literal["budget", "refusal_direction"]

#: Thresholds of the rule `refusal_direction`, from its authors.
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
    """The cheapest setting with an effect above 0; for the case that none is within the budget."""
    working = [index for index, effect in enumerate(effects) if effect > 0]
    return min(working, key=lambda index: costs[index], default=None)


def pareto(
    effects: Sequence[float], costs: Sequence[float], complete: Sequence[bool] | None = None
) -> list[int]:
    """Indices of the Pareto front: settings that no other beats in both effect and cost, cheapest
    first. Settings with NaN are left out.

    complete: whether each setting was scored on all texts. An incompletely scored setting, whose
    numbers may be luck, does not displace a completely scored one.
    """
    known = [index for index, effect in enumerate(effects) if not math.isnan(effect)]
    front = _front(known, effects, costs)
    if complete is not None:
        front += _front([index for index in known if complete[index]], effects, costs)
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
    """A direction of one layer, with the effects of ablating and of adding it.

    removed: the concept's score with the direction ablated, on texts that call for the concept;
    lower is better. induced: its score with the direction added, on texts that do not. kl: KL of
    ablation on unrelated texts, in nats per token.
    """

    layer: int
    removed: float
    induced: float
    kl: float


def refusal_direction(candidates: Sequence[Candidate], n_layers: int) -> list[int]:
    """Rule `refusal_direction`: indices of the candidates that pass its filter, the best first.

    Filtered out: layers of the last fifth, candidates with a KL above 0.1 nats when ablated, and
    those that do not induce the concept when added. The best has the lowest score when ablated.
    Arditi et al. 2024 (arXiv 2406.11717, appendix C).
    """
    stop = int((1 - PRUNED_SHARE) * n_layers)
    passed = [
        index
        for index, candidate in enumerate(candidates)
        if not any(map(math.isnan, (candidate.removed, candidate.induced, candidate.kl)))
        and candidate.layer < stop
        and candidate.kl <= MAX_KL
        and candidate.induced >= LEAST_INDUCED
    ]
    return sorted(passed, key=lambda index: candidates[index].removed)
