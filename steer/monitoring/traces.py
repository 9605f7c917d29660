"""Texts with a number for each token and vector, and what they come to. Values, no tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from steer.steering.readouts import Readout


@dataclass(frozen=True, slots=True)
class TracedToken:
    """A token; `text` is what it covers of the text, with the blanks before it.

    special: it stands for no text of its own (a first token, a turn of a chat): it is shown and
    not counted, since its activations are often ten times as long as others. added: the tokenizer
    put it there.
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
        """The last token of the text, or of what a template puts after it."""
        return max(index for index, token in enumerate(self.tokens) if not token.added)


@dataclass(frozen=True, slots=True)
class Summary:
    """One readout over the counted tokens of one text.

    max_at: the token where it is highest. last: of the counted tokens, or of all where the vector
    was made from last tokens: then it may be one that a chat template puts there. score: what the
    file's statistics are of, the mean or that last token. side: on which side of the fitted
    threshold the score is; None where the file knows no sides.
    """

    max: float
    max_at: int
    mean: float
    last: float
    score: float
    side: Literal["positive", "negative"] | None


def summarise(trace: Trace, column: int, readout: Readout) -> Summary:
    """What readout number `column` comes to over a text."""
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
    """How far from the middle a colour scale goes that 95 % of the counted tokens fit in.

    At least to the sides' means, so that a text in which nothing happens is not lit up.
    """
    values = np.concatenate([trace.values[trace.counted, column] for trace in traces])
    least = 0.5 if readout.unit == "sides" else 1e-6
    return max(least, float(np.quantile(np.abs(values - readout.middle), 0.95)))
