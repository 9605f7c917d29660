"""Recovery: how much of what a condition does to a model an edit does without it.

    R = 1 - E KL(p_condition || p_steered) / E KL(p_condition || p_base)

over texts that the conditioned model wrote, per token. 1: the edit does all that the condition
does; 0: nothing; below 0: worse than nothing. It needs no judge and no word list.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from steer.intervals import Interval, ratio


def token_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) in nats, float32 [token], of log-probabilities [token, vocabulary]."""
    terms = teacher.exp() * (teacher - student)
    # A token that the teacher excludes adds 0, also where the student excludes it as well.
    return terms.masked_fill(teacher.isneginf(), 0.0).sum(-1)


def recovery(steered: Sequence[float], base: Sequence[float]) -> Interval:
    """R and its 95 % bootstrap interval over texts.

    steered, base: for each text, the sum over its tokens of KL(p_condition || p_steered) and
    KL(p_condition || p_base).
    """
    left = ratio(steered, base)
    return Interval(1 - left.value, 1 - left.high, 1 - left.low)
