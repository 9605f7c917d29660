"""What speaks against a vector, by what its file keeps of its texts and of each layer. No torch."""

from __future__ import annotations

import math

import msgspec

from steer.fitting.fitting import NEARLY
from steer.vectors.giveaways import TELLS
from steer.vectors.metadata import Metadata
from steer.vectors.provenance import ContrastSummary

#: Standard deviations of the AUC of noise. At the best of the pocket model's layers up to 4 % of
#: 1,000 shuffled sets passed 3 of them, and 1 % these; of 60 by a probe 2.
DEVIATIONS = 3.5
#: Where pair differences agree less, some texts are likely to be steered the wrong way.
LEAST_COHERENCE = 0.1


def warnings(metadata: Metadata) -> list[str]:
    """Each with what to try; none if nothing speaks against it, or it was not fitted here."""
    if not metadata.method.fitted:
        return []
    contrast = metadata.contrast
    told = contrast.giveaways
    found = [] if told is msgspec.UNSET else told.warnings(paired=contrast.paired)
    known = [row.separability for row in metadata.statistics if row.separability is not None]
    if not known:
        found.append(
            "too few texts to tell whether the vector separates new ones; ten a side or more would"
        )
        return found
    best, chance = max(known), _chance(contrast)
    if best < chance:
        found.append(
            f"the vector separates held-out texts no better than chance can (AUC {best:.2f} at"
            f" best; shuffled, {contrast} reach {min(chance, 1):.2f}); are the labels right, is"
            " the difference at the positions that are read, are the texts enough?"
        )
    length = None if told is msgspec.UNSET else told.length_auc
    apart = 0.5 if length is None else max(length, 1 - length)
    # From `TELLS` on it has been told.
    if chance <= apart < TELLS and best <= apart + NEARLY:
        found.append(
            f"the vector separates held-out texts (AUC {best:.2f} at best) no better than length"
            f" tells the sides apart ({apart:.2f}): length may be all that it found; even it out"
        )
    coherence = [row.coherence for row in metadata.statistics if row.coherence is not None]
    if coherence and max(coherence) < LEAST_COHERENCE:
        found.append(
            f"the pairs differ in many directions (coherence {max(coherence):.2f} at best), which"
            " predicts that some texts are steered the wrong way; more alike pairs may help"
        )
    return found


def _chance(contrast: ContrastSummary) -> float:
    """The AUC that shuffled texts of this number seldom pass (Mann and Whitney 1947)."""
    n = contrast.n
    m = n if contrast.n_negative is msgspec.UNSET else contrast.n_negative
    return 0.5 + DEVIATIONS * math.sqrt((n + m + 1) / (12 * n * m))
