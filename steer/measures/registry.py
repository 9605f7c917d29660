"""The registry of measures: those of steer, and those of other packages.

Tables, JSON, cards and pictures read them from `measures()`. Other packages add theirs with the
entry point `steer.measures` (docs/extending.md). Longer formulas are in `steer.measures.formulas`.
"""

from __future__ import annotations

from importlib.metadata import entry_points

import numpy as np

from steer.base.errors import SteerError
from steer.base.intervals import Interval, difference, mean, rate, ratio, share_of_gap
from steer.measures.formulas import distinct, moved, multiple_choice
from steer.measures.measure import Baselines, Measure, Observations, cut

GROUP = "steer.measures"


def shifts(row: Observations, baselines: Baselines) -> np.ndarray | None:
    """Change of each pair's preference, in nats, [cell, pair]."""
    if row.preferences is None or baselines.unsteered.preferences is None:
        return None
    return np.asarray(row.preferences - baselines.unsteered.preferences)


def _preference(row: Observations, baselines: Baselines) -> Interval | None:
    moves = shifts(row, baselines)
    return None if moves is None or row.kind == "unsteered" else mean(moves)


def _right_way(row: Observations, baselines: Baselines) -> Interval | None:
    moves = shifts(row, baselines)
    return None if moves is None or row.kind == "unsteered" else moved(moves)


def _multiple_choice(row: Observations, _: Baselines) -> Interval | None:
    # Pairs without a common prompt are not answers to choose from.
    if row.preferences is None or not row.endings:
        return None
    matching = multiple_choice(row.preferences)
    return rate(matching, np.ones(matching.shape))


def _recovery(row: Observations, baselines: Baselines) -> Interval | None:
    if row.divergences is None or baselines.unsteered.divergences is None:
        return None
    base = baselines.unsteered.divergences
    return ratio(base - row.divergences, base[0])


def _concept(row: Observations, _: Baselines) -> Interval | None:
    return None if row.concept is None else rate(*row.by_cell(row.concept))


def _of_prompt(row: Observations, baselines: Baselines) -> Interval | None:
    """None where the prompt does not raise the concept's rate."""
    base = baselines.unsteered.concept
    prompt = None if baselines.prompt is None else baselines.prompt.concept
    if row.concept is None or base is None or prompt is None:
        return None
    own, base, prompt = cut(row.concept, base, prompt)
    low, high = (float(tops.sum() / max(counts.sum(), 1e-9)) for tops, counts in (base, prompt))
    if not high > low:
        return None
    share = share_of_gap(own, base, prompt)
    if len(row.starts) > 1:  # widen it by the choice of random directions
        spread = rate(*row.by_cell(row.concept))
        ends = ((end - low) / (high - low) for end in (spread.low, spread.high))
        share = Interval(share.value, min(share.low, next(ends)), max(share.high, next(ends)))
    return share


def _kl(row: Observations, _: Baselines) -> Interval | None:
    return None if row.kind == "unsteered" else ratio(row.drifts, row.drift_tokens)


def _extra_nats(row: Observations, baselines: Baselines) -> Interval | None:
    if row.kind == "unsteered":
        return None
    if len(row.starts) > 1:
        return difference(row.by_cell(row.nats), row.by_cell(baselines.unsteered.nats))
    own, base = cut(row.nats, baselines.unsteered.nats)
    return difference(own, base)


def _distinct(row: Observations, _: Baselines) -> Interval | None:
    pairs = np.array([distinct(tokens) for tokens in row.tokens], np.float64).reshape(-1, 2)
    return rate(*row.by_cell((pairs[:, 0], pairs[:, 1])))


#: In the order of the table: effect, then cost.
MEASURES = (
    Measure(
        "preference", "preference", "nats", "{:.2f}",
        "nats by which the positive ending gains on the negative one", _preference,
    ),
    Measure(
        "right_way", "right way", "share", "{:.0%}", "share of pairs whose preference rises",
        _right_way,
    ),
    Measure(
        "multiple_choice", "matching", "share", "{:.0%}",
        "probability of the matching one of two answers", _multiple_choice,
    ),
    Measure(
        "recovery", "recovery", "share of the condition's effect", "{:.2f}",
        "1 is the full effect of the condition, 0 none", _recovery,
    ),
    Measure(
        "concept", "concept", "share", "{:.0%}", "how far the generated texts show it", _concept
    ),
    Measure(
        "of_prompt", "of the prompt", "share of the prompt's effect", "{:.2f}",
        "the concept's rate on a scale where 0 is unsteered and 1 the condition as a prompt",
        _of_prompt,
    ),
    Measure(
        "kl", "KL", "nats per token", "{:.3f}",
        "change of the predictions on unrelated texts, in nats per token", _kl,
    ),
    Measure(
        "extra_nats", "extra nats", "nats per token", "{:.2f}",
        "extra cost of the generated texts under the unsteered model, per token", _extra_nats,
    ),
    Measure(
        "distinct", "distinct-2", "share", "{:.0%}", "share of different bigrams in a text",
        _distinct,
    ),
)  # fmt: skip


def measures() -> dict[str, Measure]:
    """Every measure by its name: those of steer, then those of other packages.

    Raises:
        SteerError: an entry point is not a Measure, or its name is taken.
    """
    known = {measure.name: measure for measure in MEASURES}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        origin = f"the measure {point.name!r} of {point.dist.name if point.dist else point.value}"
        try:
            measure = point.load()
        except Exception as error:  # another package's code may raise anything
            raise SteerError(
                f"{origin} cannot be loaded: {error}", hint="fix that package, or remove it"
            ) from error
        if not isinstance(measure, Measure):
            raise SteerError(
                f"{origin} is not a Measure", hint="the entry point has to name one Measure object"
            )
        if measure.name in known:
            raise SteerError(
                f"{origin} has the name {measure.name!r}, which is taken", hint="rename it there"
            )
        known[measure.name] = measure
    return known
