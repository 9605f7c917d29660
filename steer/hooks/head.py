"""The two halves of a forward: the body's last hidden state, and the LM head on it.

A hidden state takes d_model numbers a token where log-probabilities take a vocabulary, so it is
what is kept of a text that is compared with again and again. The head is run by the network's own
`forward`, with its body replaced by what it returned: soft caps and scales of the logits are in.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from steer.hooks.hooks import replaced
from steer.hooks.record import COARSE_TOLERANCE, TOLERANCE
from steer.models.model import Model

#: Token ids of a row, and how many of them at its end are predicted.
Ending = tuple[Sequence[int], int]

#: Of each network: the type of its body's output, None where the head cannot be run by itself.
_tried: WeakKeyDictionary[nn.Module, type | None] = WeakKeyDictionary()


def last_hidden(model: Model, rows: Sequence[Ending]) -> Tensor:
    """The body's output at the positions that predict the last n tokens of each row.

    Returns [sum of n, d_model] in the model's type, row after row.
    """
    # Padded on the right, so that positions count from 0 in every row, and no token sees padding:
    # nothing has to be masked, and attention without a mask is faster.
    ids, mask = model.padded([row for row, _ in rows], left=False)
    mask = torch.ones_like(mask)
    hidden: Tensor = model.body(input_ids=ids, attention_mask=mask, use_cache=False)[0]
    return picked(hidden, rows)


def picked(hidden: Tensor, rows: Sequence[Ending]) -> Tensor:
    """The positions [sum of n, ...] that predict the last n tokens, of [row, position, ...] of rows
    that are padded on the right."""
    width = hidden.shape[1]
    # One index for all rows: the gradient of a slice for each is as large as the whole.
    places = [
        index * width + np.arange(len(row) - n, len(row)) - 1 for index, (row, n) in enumerate(rows)
    ]
    index = torch.from_numpy(np.concatenate(places)).to(hidden.device)
    return hidden.flatten(0, 1)[index]


def headed(model: Model, hidden: Tensor) -> Tensor:
    """Logits, float32 [token, vocabulary], of what `last_hidden` gives; `has_head` says whether."""
    kind = _tried[model.network]
    assert kind is not None
    output = kind(last_hidden_state=hidden[None])
    ids = torch.zeros((1, len(hidden)), dtype=torch.int64, device=model.device)
    restore = replaced(model.body, lambda *_args, **_keywords: output)
    try:
        logits: Tensor = model.network(input_ids=ids, use_cache=False).logits
    finally:
        restore()
    return logits[0].float()


@torch.no_grad()
def has_head(model: Model) -> bool:
    """Whether the head gives, on the body's output alone, what the network gives; found by
    trying."""
    if model.network not in _tried:
        _tried[model.network] = None
        try:
            _tried[model.network] = _kind(model)
        # A network that takes more than the hidden state from its body may fail in any way.
        except Exception:
            return False
    return _tried[model.network] is not None


def _kind(model: Model) -> type | None:
    size = int(model.network.config.get_text_config().vocab_size)
    ids = torch.randint(size, (1, 6), generator=torch.Generator().manual_seed(0)).to(model.device)
    mask = torch.ones_like(ids)
    output = model.body(input_ids=ids, attention_mask=mask, use_cache=False)
    expected = model.network(input_ids=ids, attention_mask=mask, use_cache=False).logits[0].float()
    _tried[model.network] = type(output)
    found = headed(model, output.last_hidden_state[0])
    tolerance = TOLERANCE.get(model.network.dtype, COARSE_TOLERANCE)
    alike = bool((found - expected).norm() <= tolerance * expected.norm())
    return type(output) if alike else None
