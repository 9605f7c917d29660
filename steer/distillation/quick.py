"""What makes a model faster on this machine: the type of its weights, the kind of attention."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from steer.models.memory import free_bytes
from steer.models.model import Model

#: The fewest weights for which bfloat16 pays off: in smaller models, matrix products take only a
#: small share of the time.
WORTH = 50_000_000
#: The largest share of the free memory that a copy may take.
SHARE = 0.25


def quick(model: Model) -> Model:
    """The model in bfloat16 where a CPU multiplies it natively; else the model itself.

    SmolLM2-135M then runs three times as fast. Its weights, like those of most models, are stored
    in bfloat16, so only activations lose precision; recovery comes out lower by less than 0.01.
    """
    weights = list(model.network.parameters())
    size = sum(weight.numel() for weight in weights)
    fits = all(
        weight.device.type == "cpu" and weight.dtype == torch.float32 and not weight.is_meta
        for weight in weights
    )
    free = free_bytes(model.device) or 0
    if size < WORTH or not fits or not has_native_bfloat16() or 2 * size > SHARE * free:
        return model
    # Only the weights: buffers such as rotary frequencies are float32 in every loaded model.
    copies = {
        id(weight): nn.Parameter(weight.to(torch.bfloat16), requires_grad=False)
        for weight in weights
    }
    return replace(model, network=copy.deepcopy(model.network, copies))


@contextmanager
def cheap_gradients(model: Model) -> Iterator[None]:
    """Attention whose gradient is cheap, in the block.

    On a CPU, the gradient of the fused attention takes ten times as long as its products: a quarter
    of a step of descent on SmolLM2-135M. On other devices nothing changes.
    """
    if model.device.type != "cpu":
        yield
        return
    with sdpa_kernel(SDPBackend.MATH):
        yield


def has_native_bfloat16() -> bool:
    """Whether the CPU has instructions for products of bfloat16."""
    return any(
        bool(getattr(torch.cpu, name, lambda: False)())
        for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    )
