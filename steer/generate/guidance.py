"""Conditions at a strength, live: the guided distribution of a prompt with and without them.

    log p(. | guided) = log p_base + sum of c_i (log p_condition_i - log p_base)    + constant

Strength c = 1 of one condition is the prompt itself, 0 the model without it, 2 twice its log-odds,
-1 its opposite. It is classifier-free guidance of language models (Sanchez et al. 2023, arXiv
2306.17806), and the exact reference for what an edit or a token can do: it takes the forwards of
all prompts, side by side in one batch, for every token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steer.base.errors import InputError
from steer.contrasts.frame import joinable
from steer.models.model import Model
from steer.steering.generation import Guidance, Guide


def guidance(
    model: Model, prompts: Sequence[str], guides: Sequence[Guide], *, chat: bool = False
) -> Guidance:
    """Prompts under the condition of each guide; with `chat` conditions are system messages.

    Raises:
        InputError: a condition that changes nothing in a prompt.
        ModelError: the template refuses a system message, or there is no template.
    """
    made = tuple(
        tuple(_under(model, prompt, guide.condition, chat=chat) for guide in guides)
        for prompt in prompts
    )
    plain = [model.chat(prompt) if chat else prompt for prompt in prompts]
    for text, under in zip(plain, made, strict=True):
        for guide, conditioned in zip(guides, under, strict=True):
            if conditioned == text:
                raise InputError(
                    f"the condition {guide.condition!r} changes nothing in a prompt",
                    hint="it is what stands before the prompt, or a system message",
                )
    return Guidance(tuple(guide.strength for guide in guides), made)


def _under(model: Model, prompt: str, condition: str, *, chat: bool) -> str:
    return model.chat(prompt, condition) if chat else joinable(condition) + prompt


def guided(log_probs: Tensor, strengths: Sequence[float]) -> Tensor:
    """Unnormalised log-probabilities [..., vocabulary] of [..., 1 + conditions, vocabulary].

    Rows that have no part in it are left out, so that one condition at strength 1 gives its own
    distribution bit for bit, and 0 that of the first row.
    """
    weights = [1.0 - sum(strengths), *strengths]
    parts = [
        log_probs[..., index, :] * weight for index, weight in enumerate(weights) if weight != 0
    ]
    return torch.stack(parts).sum(0)


class GuidedScores:
    """Logits processor: the rows of a prompt, with and without conditions, all get the guided
    distribution, and so go on with the same token."""

    def __init__(self, strengths: Sequence[float]) -> None:
        self._strengths = strengths

    def __call__(self, _ids: Tensor, scores: Tensor) -> Tensor:
        rows = 1 + len(self._strengths)
        log_probs = scores.float().log_softmax(-1).view(-1, rows, scores.shape[-1])
        return guided(log_probs, self._strengths).repeat_interleave(rows, 0)
