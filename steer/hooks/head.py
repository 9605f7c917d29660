"""Run the two halves of a forward separately: the body's last hidden state, and the LM head on it.

For a text that is compared with many others, the hidden state is stored: it takes d_model numbers
per token, log-probabilities take a whole vocabulary. The head runs through the network's own
`forward`, with the body replaced by its stored output, so that soft caps and scales of the logits
are included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from steer.hooks.hooks import replaced
from steer.hooks.record import COARSE_TOLERANCE, TOLERANCE
from steer.models.model import Model

#: Token ids of a row, and how many tokens at its end are predicted.
Ending = tuple[Sequence[int], int]

#: Bytes of logits that are computed at once, and the positions whose logits a CPU then normalises
#: at once: a few, since what stays in its cache is several times as fast.
_LOGITS_BYTES = 64_000_000
_NORMALISED = 8

#: For each network: the type of its body's output; None if the head cannot run by itself.
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
    return ending_rows(hidden, rows)


def ending_rows(hidden: Tensor, rows: Sequence[Ending]) -> Tensor:
    """The positions that predict the last n tokens of each row, [sum of n, ...], from [row,
    position, ...] of rows that are padded on the right."""
    width = hidden.shape[1]
    # One index for all rows: the gradient of a slice for each is as large as the whole.
    places = [
        index * width + np.arange(len(row) - n, len(row)) - 1 for index, (row, n) in enumerate(rows)
    ]
    index = torch.from_numpy(np.concatenate(places)).to(hidden.device)
    return hidden.flatten(0, 1)[index]


def apply_head(model: Model, hidden: Tensor) -> Tensor:
    """Logits, float32 [token, vocabulary], from `last_hidden`. Call `has_head` before."""
    return _logits(model, hidden).float()


def chosen_log_probs(model: Model, hidden: Tensor, tokens: Tensor) -> Tensor:
    """The log-probability of one token after each hidden state, float32 [token]. Call `has_head`
    before.

    hidden: [token, d_model]. tokens: int64 [token].
    """
    size = int(model.network.config.get_text_config().vocab_size) * hidden.element_size()
    tokens = tokens.to(hidden.device)
    n_logits = max(1, _LOGITS_BYTES // size)
    n_normalised = _NORMALISED if hidden.device.type == "cpu" else n_logits
    values: list[Tensor] = []
    for states, targets in _split(n_logits, hidden, tokens):
        values += [
            logits.float().log_softmax(-1).gather(1, wanted[:, None])[:, 0]
            for logits, wanted in _split(n_normalised, _logits(model, states), targets)
        ]
    return torch.cat(values)


def _split(n: int, first: Tensor, second: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts of n rows of both."""
    return zip(torch.split(first, n), torch.split(second, n), strict=True)


def _logits(model: Model, hidden: Tensor) -> Tensor:
    """Logits in the network's type, [token, vocabulary]."""
    kind = _tried[model.network]
    assert kind is not None
    output = kind(last_hidden_state=hidden[None])
    ids = torch.zeros((1, len(hidden)), dtype=torch.int64, device=model.device)
    restore = replaced(model.body, lambda *_args, **_keywords: output)
    try:
        logits: Tensor = model.network(input_ids=ids, use_cache=False).logits
    finally:
        restore()
    return logits[0]


@torch.no_grad()
def has_head(model: Model) -> bool:
    """Whether the head gives the network's logits from the body's output alone; found by a test."""
    if model.network not in _tried:
        _tried[model.network] = None
        try:
            _tried[model.network] = _kind(model)
        # A network that needs more than the hidden state may fail in any way.
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
    separate = apply_head(model, output.last_hidden_state[0])
    tolerance = TOLERANCE.get(model.network.dtype, COARSE_TOLERANCE)
    alike = bool((separate - expected).norm() <= tolerance * expected.norm())
    return type(output) if alike else None
