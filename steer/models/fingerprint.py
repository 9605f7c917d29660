"""A short hash that identifies a set of weights, whatever precision they are loaded in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

_SAMPLES = 64


def fingerprint(model: torch.nn.Module, marks: Sequence[str] = ()) -> str:
    """Hash over samples of every parameter: 16 hex digits.

    Each parameter contributes its name, its shape and 64 evenly spaced values, rounded to bfloat16,
    so a checkpoint has the same fingerprint in float32 and in bfloat16. A finetune, which moves
    nearly every weight, has another. It takes milliseconds, since it reads only the samples. A
    float32 checkpoint loaded in float16 is rounded twice and may differ; quantised or offloaded
    weights do differ. marks: hashes of adapters that were merged into the weights.
    """
    digest = hashlib.sha256("".join(marks).encode())
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {list(parameter.shape)}".encode())
        if parameter.is_meta or parameter.numel() == 0:
            continue
        full = getattr(parameter, "full_tensor", parameter.detach)()  # gathers a sharded one
        flat = _flat(full)
        count = min(_SAMPLES, flat.numel())
        # Integers, because evenly spaced floats round differently beyond 2^24 elements.
        index = torch.arange(count) * (flat.numel() - 1) // max(count - 1, 1)
        sample = flat[index.to(flat.device)].to(torch.bfloat16).cpu()
        digest.update(sample.view(torch.int16).numpy().astype("<i2").tobytes())
    return digest.hexdigest()[:16]


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    try:
        return tensor.flatten()
    except NotImplementedError:  # torchao's quantised tensors have no views
        return tensor.dequantize().flatten()
