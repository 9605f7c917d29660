"""Traces: a number for each token of a text and each vector, and their summaries. No tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from steer.steering.readouts import Readout


@dataclass(frozen=True, slots=True)
class TracedToken:
    """A token and the `text` that it covers, with the blanks before it.

    special: it covers no text of its own, such as BOS or a turn marker. It is shown but left out of
    summaries, since its activation is often ten times as long as others. added: the tokenizer
    added it.
    """

    id: int
    text: str
    special: bool = False
    added: bool = False


@dataclass(frozen=True, slots=True)
class Trace:
    """The readouts of one text: values float32 [n_tokens, n_readouts], in each readout's unit."""

    text: str
    tokens: tuple[TracedToken, ...]
    values: NDArray[np.float32]

    @property
    def counted(self) -> list[int]:
        """The tokens that are not special."""
        return [index for index, token in enumerate(self.tokens) if not token.special]

    @property
    def end(self) -> int:
        """The index of the last token of the text, or of what a template puts after it."""
        return max(index for index, token in enumerate(self.tokens) if not token.added)


@dataclass(frozen=True, slots=True)
class Summary:
    """One readout over the counted tokens of one text.

    max_at: index of the token with the maximum. last: the value at the last counted token; for a
    vector that was read at the last token, at the last token of all, which a chat template may have
    added. score: the mean or `last`, whichever the vector was read at. side: the side of the fitted
    threshold that the score is on; None where the file has no statistics of both sides.
    """

    max: float
    max_at: int
    mean: float
    last: float
    score: float
    side: Literal["positive", "negative"] | None


def summarise(trace: Trace, column: int, readout: Readout) -> Summary:
    """Summarise readout number `column` over a text."""
    counted = trace.counted
    values = trace.values[counted, column].astype(np.float64)
    at_end = readout.vector.metadata.read.at_end
    last = float(trace.values[trace.end if at_end else counted[-1], column])
    mean = float(values.mean())
    score = last if at_end else mean
    threshold = readout.threshold
    side: Literal["positive", "negative"] | None = None
    if threshold is not None:
        side = "positive" if score > threshold else "negative"
    highest = int(values.argmax())
    return Summary(float(values[highest]), counted[highest], mean, last, score, side)


def reach(traces: Sequence[Trace], column: int, readout: Readout) -> float:
    """The half-width of a colour scale that 95 % of the counted tokens fit in.

    It reaches at least to the means of the two sides, so that a neutral text stays pale.
    """
    values = np.concatenate([trace.values[trace.counted, column] for trace in traces])
    least = 0.5 if readout.unit == "sides" else 1e-6
    return max(least, float(np.quantile(np.abs(values - readout.middle), 0.95)))
