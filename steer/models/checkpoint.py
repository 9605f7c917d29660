"""Build a network with changed weights, and save it as a Hugging Face folder."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig
from transformers.utils import cached_file

from steer.base.errors import ModelError
from steer.models.loading import auto_class, quiet
from steer.models.source import ModelSource


def rebuilt(
    network: Any,
    weights: Mapping[str, Tensor],
    changes: Mapping[str, Any],
    *,
    model_type: str | None = None,
) -> Any:
    """A copy of `network` with a changed configuration and these weights.

    model_type: another type of model, with the same names and shapes of weights. Biases that the
    changed configuration adds and that are not among the weights are 0. The result can only be
    saved: buffers that are computed on loading are missing.

    Raises:
        ModelError: the weights do not fit the changed configuration.
    """
    config = copy.deepcopy(network.config)
    if model_type is not None:
        known = AutoConfig.for_model(model_type).to_dict()
        settings = {name: value for name, value in config.to_dict().items() if name in known}
        for name in ("model_type", "architectures", "transformers_version"):
            settings.pop(name, None)
        config = AutoConfig.for_model(model_type, **settings)
    for name, value in changes.items():
        setattr(config, name, value)
    dtype = next(tensor.dtype for tensor in weights.values() if tensor.is_floating_point())
    with quiet(), torch.device("meta"):
        auto = auto_class(config)
        rebuilt_network = auto.from_config(config, dtype=dtype)
    expected = rebuilt_network.state_dict()
    filled = dict(weights)
    for name, tensor in expected.items():
        if name not in weights and name.endswith("bias"):
            filled[name] = torch.zeros(tensor.shape, dtype=dtype)
    if wrong := [n for n in {*expected, *filled} if _shape(expected, n) != _shape(filled, n)]:
        raise ModelError(
            f"the weights are not those of {type(rebuilt_network).__name__}:"
            f" {', '.join(sorted(wrong)[:3])}"
        )
    rebuilt_network.load_state_dict(filled, strict=True, assign=True)
    rebuilt_network.tie_weights()
    rebuilt_network.generation_config = network.generation_config
    return rebuilt_network


def save(
    folder: Path, network: Any, tokenizer: Any, source: ModelSource, *, max_shard_size: str
) -> None:
    """Write a folder that Hugging Face loads: weights, configurations, tokenizer, chat template.

    A SentencePiece `tokenizer.model` of `source` is copied too, since converters for other engines
    need it.
    """
    with quiet():
        network.save_pretrained(folder, max_shard_size=max_shard_size)
        tokenizer.save_pretrained(folder)
        sentencepiece = cached_file(
            source.location,
            "tokenizer.model",
            revision=source.revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    if sentencepiece is not None:
        shutil.copyfile(sentencepiece, folder / "tokenizer.model")


def _shape(weights: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(weights[name].shape) if name in weights else None
