"""Warnings about a vector, from the statistics in its file. No torch."""

from __future__ import annotations

import math

import msgspec

from steer.fitting.fitting import NEARLY
from steer.vectors.giveaways import TELLS
from steer.vectors.metadata import Metadata
from steer.vectors.provenance import ContrastSummary

#: How many standard deviations of the AUC of noise count as chance. At the best layer of the pocket
#: model, up to 4 % of 1,000 shuffled sets exceeded 3, and 1 % exceeded 3.5; with a probe, 2 of 60.
DEVIATIONS = 3.5
#: Below this coherence, some texts are likely to be steered the wrong way.
LEAST_COHERENCE = 0.1


def warnings(metadata: Metadata) -> list[str]:
    """Warnings, each with something to try; none for vectors that were not fitted here."""
    if not metadata.method.fitted:
        return []
    contrast = metadata.contrast
    giveaways = contrast.giveaways
    messages = [] if giveaways is msgspec.UNSET else giveaways.warnings(paired=contrast.paired)
    known = [row.separability for row in metadata.statistics if row.separability is not None]
    if not known:
        messages.append(
            "too few texts to test whether the vector separates new ones; use ten a side or more"
        )
        return messages
    best, chance = max(known), _chance(contrast)
    if best < chance:
        messages.append(
            f"the vector separates held-out texts no better than chance (AUC {best:.2f} at best;"
            f" {contrast} with shuffled labels reach {min(chance, 1):.2f}); check the labels and"
            " the positions, or use more texts"
        )
    length = None if giveaways is msgspec.UNSET else giveaways.length_auc
    apart = 0.5 if length is None else max(length, 1 - length)
    # From `TELLS` on there is a warning about length already.
    if chance <= apart < TELLS and best <= apart + NEARLY:
        messages.append(
            f"the vector separates held-out texts (AUC {best:.2f} at best) no better than length"
            f" does ({apart:.2f}): it may be a vector of length; make the lengths equal"
        )
    coherence = [row.coherence for row in metadata.statistics if row.coherence is not None]
    if coherence and max(coherence) < LEAST_COHERENCE:
        messages.append(
            f"the pairs differ in many directions (coherence {max(coherence):.2f} at best), so some"
            " texts are likely to be steered the wrong way; more similar pairs may help"
        )
    return messages


def _chance(contrast: ContrastSummary) -> float:
    """The AUC that shuffled texts of this number seldom exceed (Mann and Whitney 1947)."""
    n = contrast.n
    m = n if contrast.n_negative is msgspec.UNSET else contrast.n_negative
    return 0.5 + DEVIATIONS * math.sqrt((n + m + 1) / (12 * n * m))
