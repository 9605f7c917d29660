"""A vLLM worker with a steered model. vLLM imports this module by name in its own processes.

The worker reads the vectors of the engine, adds a table of slots to the output of each decoder
layer before anything is compiled, and sets the slot of each token before each forward. The steers
of a request come in `SamplingParams.extra_args["steer"]` (`steer.engines.wire`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from vllm.platforms import current_platform

from steer.engines.slots import Shape, Slots
from steer.engines.vllm_engine import FOLDER
from steer.engines.wire import decode
from steer.vectors import store

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as _Worker
else:
    from vllm.v1.worker.gpu_worker import Worker as _Worker


class SteeredWorker(_Worker):  # type: ignore[misc]
    """vLLM's worker for this platform, steered."""

    def load_model(self, **keywords: Any) -> None:
        """Load the model, and steer it before its first forward."""
        super().load_model(**keywords)
        config = self.vllm_config
        shape = config.additional_config["steer"]
        # Enough for the largest batch with different steers for each request.
        n_slots = shape["n_slots"] or 2 * config.scheduler_config.max_num_seqs + 1
        vectors = {file.stem: store.read(file) for file in Path(os.environ[FOLDER]).iterdir()}
        steering = Steering(
            Slots(
                Shape(tuple(shape["layers"]), n_slots, shape["n_along"]),
                list(vectors.values()),
                config.model_config.get_hidden_size(),
                config.scheduler_config.max_num_batched_tokens,
                self.device,
            ),
            lambda text: decode(text, vectors),
        )
        steering.attach(self.model_runner)


class Steering:
    """Fills the slots of one worker for its current requests."""

    def __init__(self, slots: Slots, decoded: Any) -> None:
        self._slots, self._decoded = slots, decoded

    def attach(self, runner: Any) -> None:
        """Hook the layers of the runner's model, and fill the slots before each forward."""
        layers = runner.get_model().model.layers
        for layer, table in self._slots.layers.items():
            layers[layer].steer = table
            layers[layer].register_forward_hook(_steered)
        forward = runner._model_forward  # vLLM: "can be overridden by subclasses"

        def steered_forward(*arguments: Any, **keywords: Any) -> Any:
            self._before(runner)
            return forward(*arguments, **keywords)

        runner._model_forward = steered_forward

    def _before(self, runner: Any) -> None:
        batch = runner.input_batch
        n = len(batch.req_ids)
        keys = [_steers_of(runner.requests[name]) for name in batch.req_ids]
        in_use = dict.fromkeys(keys)
        for key in in_use:
            if key not in self._slots:
                self._slots.find(key, self._decoded(key), in_use)
        starts = runner.query_start_loc.np[: n + 1].tolist()
        # The response begins with the last token of the prompt, which predicts the first new one.
        firsts = batch.num_prompt_tokens[:n] - 1 - batch.num_computed_tokens_cpu[:n]
        self._slots.fill(keys, starts, firsts.tolist())


def _steers_of(request: Any) -> str:
    """The encoded steers of a request (`wire.encode`); "" for an unsteered one."""
    extra = getattr(request.sampling_params, "extra_args", None) or {}
    return str(extra.get("steer", ""))


def _steered(layer: nn.Module, _arguments: Any, output: Any) -> Any:
    """Forward hook of a decoder layer; its output is resid_post, or a branch and a skip."""
    table: Any = layer.steer
    if isinstance(output, Tensor):
        return table(output, None)
    branch, skip, *rest = output
    return (table(branch, skip), skip, *rest)
