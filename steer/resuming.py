"""The keys by which interrupted runs are resumed.

Journals of `eval`, `sweep`, `suite` and `distill` and recordings of `extract` are all found by
`run_key`: a hash of every weight, the tokenizer, the chat template, the configuration, the device,
the dtype, and the arguments of the run. If any of them has changed, the work starts again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import msgspec
import torch
from torch import Tensor

from steer.base.journal import Journal
from steer.models.model import Model
from steer.vectors.vector import SteeringVector
from steer.workers import once, workers_of

#: The number of parts in which each tensor is summed.
_PARTS = 64
#: Endings of settings that give the location of a tokenizer or configuration, which is irrelevant.
_PLACES = ("_file", "_path", "files_loaded", "_commit_hash", "transformers_version")


def journal(model: Model, kind: str, *arguments: Any) -> Journal:
    """The journal of a run; it is empty unless the same run was interrupted before.

    kind: the folder, such as `sweeps`. arguments: plain JSON, everything besides the model that the
    results depend on.

    Raises:
        SteerError: the journal cannot be read or written.
    """
    return Journal.of(kind, run_key(model, *arguments))


def run_key(model: Model, *arguments: Any) -> str:
    """64 hex digits that change with anything that the results of a run depend on."""
    parts = [
        msgspec.to_builtins(model.identity),
        model.describe(),
        once(workers_of(model), weights_key),
        _configuration(model.network.config),
        _configuration(getattr(model.network, "generation_config", None)),
        tokenizer_key(model.tokenizer),
        model.template.key,
        arguments,
    ]
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@torch.no_grad()
def weights_key(model: Model) -> str:
    """A checksum over all bits of all weights, with their names, shapes and dtypes.

    Unlike the fingerprint, which samples each weight, it detects a single changed number. It takes
    one pass over the memory.
    """
    digest = hashlib.sha256()
    network = model.network
    every: Iterable[tuple[str, Tensor]] = [*network.named_parameters(), *network.named_buffers()]
    for name, tensor in sorted(every, key=lambda item: item[0]):
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype} ".encode())
        if not tensor.is_meta and tensor.numel():
            digest.update(json.dumps(_sums(tensor.detach())).encode())
    return digest.hexdigest()


def vector_key(vector: SteeringVector) -> list[Any]:
    """The metadata of a vector and a hash of its numbers, also for one that was never saved."""
    digest = hashlib.sha256()
    for array in (vector.directions, vector.down, vector.up):
        digest.update(b"none" if array is None else f"{array.shape}".encode() + array.tobytes())
    return [msgspec.to_builtins(vector.metadata), digest.hexdigest()]


def tokenizer_key(tokenizer: Any) -> list[Any]:
    """Everything that affects tokenization: vocabulary, merges, special tokens, chat template."""
    rules: Any
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules = sorted(tokenizer.get_vocab().items())
    else:
        rules = json.loads(backend.to_str())
        # These change with each call.
        rules = {name: rules[name] for name in rules if name not in ("padding", "truncation")}
    settings = {
        name: str(value)
        for name, value in getattr(tokenizer, "init_kwargs", {}).items()
        if not name.endswith(_PLACES)
    }
    return [type(tokenizer).__name__, rules, settings, tokenizer.chat_template]


def _configuration(config: Any) -> dict[str, Any]:
    values = {} if config is None else config.to_dict()
    return {name: value for name, value in values.items() if not name.endswith(_PLACES)}


def _sums(tensor: Tensor) -> list[int]:
    """Sums of a tensor's bits, read as integers, over each of its parts."""
    full = getattr(tensor, "full_tensor", lambda: tensor)()  # gathers a sharded one
    try:
        flat = full.contiguous().flatten()
        integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        bits = flat.view(integers[flat.element_size()])
    except (NotImplementedError, RuntimeError, KeyError):  # torchao's quantised tensors
        bits = full.dequantize().float().flatten().view(torch.int32)
    cut = bits.numel() // _PARTS * _PARTS
    sums = bits[:cut].view(_PARTS, -1).sum(1, dtype=torch.int64).tolist() if cut else []
    return [*sums, int(bits[cut:].sum(dtype=torch.int64))]
