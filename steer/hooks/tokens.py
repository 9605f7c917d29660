"""Learned tokens in a model: their ids in prompts, and the embeddings of these ids."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from steer.hooks.hooks import replaced
from steer.models.model import Model
from steer.steering.tokens import FIRST_ID, LearnedToken


def substitute_tokens(
    model: Model, tokens: Sequence[LearnedToken], ids: Sequence[int]
) -> list[int]:
    """A prompt's token ids with learned tokens in the place of the prompts that they were compiled
    from: in the system message, or at the start of a plain text. A token that the prompt contains
    already stays in its place.
    """
    new = [id_ for token in tokens if not set(token.ids) & set(ids) for id_ in token.ids]
    return model.with_system(ids, new) if new else list(ids)


@contextmanager
def embedded(
    model: Model, tokens: Sequence[LearnedToken], rows: Tensor | None = None
) -> Iterator[None]:
    """Within the block, the model's input embedding also embeds the ids of these tokens.

    rows: float32 [embeddings of all tokens, d_model] to use instead of the tokens' own, such as
    parameters in training.
    """
    ids = [id_ for token in tokens for id_ in token.ids]
    if not ids:
        yield
        return
    module = model.network.get_input_embeddings()
    if rows is None:
        rows = torch.cat([torch.from_numpy(token.embeddings.copy()) for token in tokens])
    weight = module.weight
    small = _small(module, rows.to(weight.device, weight.dtype))
    known = torch.tensor(ids, device=weight.device)
    inner = module.forward

    def forward(ids: Tensor, *args: Any, **keywords: Any) -> Tensor:
        if not bool((ids >= FIRST_ID).any()):
            return inner(ids, *args, **keywords)  # type: ignore[no-any-return]
        matches = ids[..., None] == known
        ours = matches.any(-1)
        out: Tensor = inner(ids.masked_fill(ours, 0), *args, **keywords)
        own = type(small).forward(small, matches.int().argmax(-1))
        return torch.where(ours[..., None], own.to(out.dtype), out)

    remove = replaced(module, forward)
    try:
        yield
    finally:
        remove()


def _small(module: nn.Module, rows: Tensor) -> nn.Module:
    """A copy of an embedding module, including its scale, with other rows."""
    small = copy.copy(module)
    small._parameters = {}
    vars(small).pop("forward", None)
    vars(small).update(weight=rows, padding_idx=None, max_norm=None)
    return small
