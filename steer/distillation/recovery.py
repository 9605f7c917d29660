"""Recovery: the share of a condition's effect on a model that an edit has without the condition.

    R = 1 - E KL(p_condition || p_steered) / E KL(p_condition || p_base)

per token, over texts that the conditioned model generated. 1 is the whole effect, 0 is the
unsteered model, and below 0 is worse than unsteered. It needs no judge and no word list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steer.base.intervals import Interval, ratio


def token_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) in nats, float32 [..., token], of log-probabilities [..., token,
    vocabulary]. A student may have further leading axes, to compare many with one teacher.
    """
    chances, excluded = teacher.exp(), teacher.isneginf()
    some = bool(excluded.any())
    divergence = student.new_empty(student.shape[:-1])
    # One after another, so that intermediate results stay in a processor's cache.
    for index in np.ndindex(student.shape[: student.ndim - teacher.ndim]):
        terms = (teacher - student[index]).mul_(chances)
        # A token that the teacher excludes adds 0, also where the student excludes it as well.
        divergence[index] = (terms.masked_fill_(excluded, 0.0) if some else terms).sum(-1)
    return divergence


#: Tokens at a time; with a small vocabulary their numbers stay in a processor's cache.
_TOGETHER = 256


class Divergence(torch.autograd.Function):
    """`token_kl` of logits, with its gradient, softmax(logits) - p_teacher, computed in the same
    pass. It needs one more array of the size of the logits; autograd would need five.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, teacher: Tensor) -> Tensor:
        """logits float32 [token, vocabulary], teacher log-probabilities; float32 [token]."""
        gradient = torch.empty_like(logits) if logits.requires_grad else None
        divergences = []
        for start in range(0, len(logits), _TOGETHER):
            rows = slice(start, start + _TOGETHER)
            student, target = logits[rows].log_softmax(-1), teacher[rows]
            divergences.append(token_kl(target, student))
            if gradient is not None:
                torch.sub(student.exp_(), target.exp(), out=gradient[rows])
        ctx.gradient = gradient
        return torch.cat(divergences)

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None]:
        """Once: the gradient is handed on, not copied."""
        gradient, ctx.gradient = ctx.gradient, None
        return gradient.mul_(outer[:, None]), None


def recovery(steered: Sequence[float], base: Sequence[float]) -> Interval:
    """R and its 95 % interval over texts.

    steered, base: for each text, the sum over its tokens of KL(p_condition || p_steered) and
    KL(p_condition || p_base).
    """
    left = ratio(steered, base)
    return Interval(1 - left.value, 1 - left.high, 1 - left.low)
