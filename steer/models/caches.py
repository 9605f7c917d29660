"""Split and join key-value caches by rows, so that texts can enter and leave a batch."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

#: The names of a model's cache or state in its outputs and arguments.
_NAMES = ("cache", "past_key_values", "cache_params", "state")
_JOINABLE = (DynamicLayer, DynamicSlidingWindowLayer)


def state_of(output: Any) -> tuple[str, Any]:
    """The name and value of the cache or state in a model's output; "" and None without one."""
    states = ((name, output[name]) for name in _NAMES if name in output)
    return next((state for state in states if state[1] is not None), ("", None))


def can_join(cache: Any) -> bool:
    """Whether rows of the cache can be selected and joined with those of another.

    Not for recurrent states, and windows that begin at fixed positions.
    """
    return isinstance(cache, DynamicCache) and all(type(x) in _JOINABLE for x in cache.layers)


def select(cache: Any, rows: list[int], n_dropped: int) -> Any:
    """Some rows of a cache, without the first `n_dropped` columns, which are padding in all."""
    selected = copied(cache)
    for layer in selected.layers:
        if not layer.is_initialized:
            continue
        length = layer.get_seq_length() - n_dropped
        for name in ("keys", "values"):
            kept = getattr(layer, name)[rows]
            setattr(layer, name, kept[:, :, max(0, kept.shape[-2] - length) :])
        _set_length(layer, length)
    return selected


def join(first: Any, second: Any) -> Any:
    """A cache with the rows of both; those of the shorter one are padded on the left."""
    joined = copied(first)
    for layer, other in zip(joined.layers, second.layers, strict=True):
        if not layer.is_initialized:
            continue
        width = max(layer.keys.shape[-2], other.keys.shape[-2])
        for name in ("keys", "values"):
            parts = [_padded(getattr(part, name), width) for part in (layer, other)]
            setattr(layer, name, torch.cat(parts))
        _set_length(layer, max(layer.get_seq_length(), other.get_seq_length()))
    return joined


def first(cache: Any, length: int) -> Any:
    """A copy of the first `length` columns of a cache whose layers still hold all of theirs."""
    cut = copied(cache)
    for layer in cut.layers:
        if layer.is_initialized:
            layer.keys, layer.values = (
                states[:, :, :length].clone() for states in (layer.keys, layer.values)
            )
            _set_length(layer, length)
    return cut


def n_bytes(cache: Any) -> int:
    """The memory of a cache's keys and values."""
    return sum(
        states.nbytes
        for layer in cache.layers
        if layer.is_initialized
        for states in (layer.keys, layer.values)
    )


def copied(cache: Any) -> Any:
    """A cache that can be extended without a change to the first one."""
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    return copied


def _set_length(layer: Any, length: int) -> None:
    """Set the length of a layer with a window, which also counts the columns it has dropped."""
    if isinstance(layer, DynamicSlidingWindowLayer):
        layer.cumulative_length = length


def _padded(states: Tensor, width: int) -> Tensor:
    """states [row, head, position, head_dim], padded with zeros on the left to `width`."""
    return torch.nn.functional.pad(states, (0, 0, width - states.shape[-2], 0))
