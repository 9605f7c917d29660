"""Key-value caches that are taken apart and put together by rows, so that texts come and go."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

_JOINABLE = (DynamicLayer, DynamicSlidingWindowLayer)


def can_join(cache: Any) -> bool:
    """Whether rows of it can be taken out and put beside those of another.

    States of recurrent layers, and windows that begin at fixed positions, cannot.
    """
    return isinstance(cache, DynamicCache) and all(type(one) in _JOINABLE for one in cache.layers)


def select(cache: Any, rows: list[int], n_dropped: int) -> Any:
    """Some rows of a cache, without the first columns, which are padding in all of these rows."""
    made = _copied(cache)
    for layer in made.layers:
        if not layer.is_initialized:
            continue
        length = layer.get_seq_length() - n_dropped
        for name in ("keys", "values"):
            kept = getattr(layer, name)[rows]
            setattr(layer, name, kept[:, :, max(0, kept.shape[-2] - length) :])
        _set_length(layer, length)
    return made


def join(first: Any, second: Any) -> Any:
    """The rows of two caches, those of the shorter one padded on the left."""
    made = _copied(first)
    for layer, other in zip(made.layers, second.layers, strict=True):
        if not layer.is_initialized:
            continue
        width = max(layer.keys.shape[-2], other.keys.shape[-2])
        for name in ("keys", "values"):
            parts = [_padded(getattr(one, name), width) for one in (layer, other)]
            setattr(layer, name, torch.cat(parts))
        _set_length(layer, max(layer.get_seq_length(), other.get_seq_length()))
    return made


def _copied(cache: Any) -> Any:
    made = copy.copy(cache)
    made.layers = [copy.copy(layer) for layer in cache.layers]
    return made


def _set_length(layer: Any, length: int) -> None:
    """A layer with a window counts also the columns that it has let go."""
    if isinstance(layer, DynamicSlidingWindowLayer):
        layer.cumulative_length = length


def _padded(states: Tensor, width: int) -> Tensor:
    """states [row, head, position, head_dim], with zeros before them."""
    return torch.nn.functional.pad(states, (0, 0, width - states.shape[-2], 0))
