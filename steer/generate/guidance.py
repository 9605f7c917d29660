"""Classifier-free guidance: sample from the guided distribution of a prompt with and without
conditions.

    log p(. | guided) = log p_base + sum of c_i (log p_condition_i - log p_base)    + constant

With one condition, strength c = 1 is the prompt itself, 0 the model without it, 2 twice its
log-odds, and -1 its opposite (Sanchez et al. 2023, arXiv 2306.17806). It is the exact reference for
an edit or a token, at the cost of a forward of all prompts, in one batch, for every token.

Or guide the activations at one layer: at each new token the residual stream h of the plain run
becomes h + sum of c_i (h_condition_i - h), and the plain run alone gives the next token. This is
what an edit at that layer could do at best (`steer.distillation.ceiling` measures it).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steer.base.errors import InputError
from steer.contrasts.frame import joinable
from steer.hooks.hooks import SiteFunction
from steer.models.model import Model
from steer.steering.generation import Guidance, Guide
from steer.vectors.sites import Site


def guidance(
    model: Model,
    prompts: Sequence[str],
    guides: Sequence[Guide],
    *,
    chat: bool = False,
    layer: int | None = None,
) -> Guidance:
    """Prompts under the condition of each guide; with `chat`, conditions are system messages.

    layer: where activations are guided; None guides the next token's distribution.

    Raises:
        InputError: a condition does not change a prompt.
        SiteError: the model has no such layer.
        ModelError: the template refuses a system message, or there is no template.
    """
    if layer is not None:
        model.hooks.place(Site(layer))
    conditioned = tuple(
        tuple(_conditioned(model, prompt, guide.condition, chat=chat) for guide in guides)
        for prompt in prompts
    )
    plain = [model.chat(prompt) if chat else prompt for prompt in prompts]
    for text, under in zip(plain, conditioned, strict=True):
        for guide, other in zip(guides, under, strict=True):
            if other == text:
                raise InputError(
                    f"the condition {guide.condition!r} changes nothing in a prompt",
                    hint="it becomes the text before the prompt, or a system message",
                )
    return Guidance(tuple(guide.strength for guide in guides), conditioned, layer)


def _conditioned(model: Model, prompt: str, condition: str, *, chat: bool) -> str:
    return model.chat(prompt, condition) if chat else joinable(condition) + prompt


def guided(log_probs: Tensor, strengths: Sequence[float]) -> Tensor:
    """Unnormalised guided log-probabilities [..., vocabulary] from those of the baseline and the
    conditions [..., 1 + conditions, vocabulary].

    Rows with weight 0 are left out, so that one condition at strength 1 gives its own distribution
    bit for bit, and at strength 0 the baseline.
    """
    weights = [1.0 - sum(strengths), *strengths]
    parts = [
        log_probs[..., index, :] * weight for index, weight in enumerate(weights) if weight != 0
    ]
    return torch.stack(parts).sum(0)


class GuidedScores:
    """Logits processor that gives all rows of a prompt, with and without conditions, the guided
    distribution, so that they continue with the same token."""

    def __init__(self, strengths: Sequence[float]) -> None:
        self._strengths = strengths

    def __call__(self, _ids: Tensor, scores: Tensor) -> Tensor:
        rows = 1 + len(self._strengths)
        log_probs = scores.float().log_softmax(-1).view(-1, rows, scores.shape[-1])
        return guided(log_probs, self._strengths).repeat_interleave(rows, 0)


def guide_activations(strengths: Sequence[float]) -> SiteFunction:
    """Guide the activations of the newest token [row, position, d_model], where each prompt has a
    plain row and then one for each condition. Rows of conditions stay as they are."""

    def patch(resid: Tensor) -> Tensor:
        newest = resid[:, -1].view(-1, 1 + len(strengths), resid.shape[-1])
        plain = newest[:, 0].float()
        moved = plain.clone()
        for index, strength in enumerate(strengths, 1):
            moved += strength * (newest[:, index].float() - plain)
        result = resid.clone()
        result[:: 1 + len(strengths), -1] = moved.to(resid.dtype)
        return result

    return patch
