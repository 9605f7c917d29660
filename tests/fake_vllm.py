"""Stands in for vLLM where it is not installed: what reaches its workers is done by the hooks."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from steer.engines import vllm_engine, wire
from steer.generate.apply import continue_ids
from steer.hooks.clock import TokenClock
from steer.hooks.inject import injected
from steer.models.loading import load
from steer.models.source import ModelSource
from steer.steering.generation import Sampling
from steer.steering.steers import Steer
from steer.vectors import store


class LLM:
    """`vllm.LLM`, with a model in this process."""

    def __init__(self, *, model: str, dtype: str, **_options: Any) -> None:
        self.model = load(ModelSource(model, device="cpu", dtype=dtype))
        files = Path(os.environ[vllm_engine.FOLDER]).iterdir()
        self.vectors = {file.stem: store.read(file) for file in files}
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=lambda: None))

    def generate(self, prompts: list[Any], settings: list[Any], *, use_tqdm: bool) -> list[Any]:
        return [
            SimpleNamespace(outputs=[self._one(prompt["prompt_token_ids"], setting)])
            for prompt, setting in zip(prompts, settings, strict=True)
        ]

    def _one(self, ids: list[int], setting: Any) -> Any:
        key = (getattr(setting, "extra_args", None) or {}).get("steer", "")
        steers = wire.decode(key, self.vectors)
        sampling = Sampling(setting.max_tokens, 0)
        [new] = continue_ids(self.model, [(ids, 0)], steers, sampling)
        first = self._first(ids, steers) if getattr(setting, "logprobs", None) else {}
        return SimpleNamespace(
            text=self.model.decode(new),
            token_ids=new,
            finish_reason="length",
            stop_reason=None,
            logprobs=[first],
        )

    def _first(self, ids: list[int], steers: list[Steer]) -> dict[int, Any]:
        clock = TokenClock(len(ids), torch.zeros(1, dtype=torch.int64))
        with torch.no_grad(), injected(self.model, steers, clock):
            logits = self.model.network(torch.tensor([ids])).logits[0, -1]
        log_likelihoods = torch.log_softmax(logits.double(), -1).tolist()
        return {
            token: SimpleNamespace(logprob=value) for token, value in enumerate(log_likelihoods)
        }


def install(monkeypatch: pytest.MonkeyPatch, version: str = "0.32.1") -> None:
    """Have it found in vLLM's place."""

    def version_of(package: str) -> str:
        if package != "vllm":
            raise metadata.PackageNotFoundError
        return version

    module = ModuleType("vllm")
    vars(module).update(LLM=LLM, SamplingParams=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(vllm_engine, "find_spec", lambda name: object())
    monkeypatch.setattr(vllm_engine.metadata, "version", version_of)
