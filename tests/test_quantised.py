"""Models with weights of few bits: steered between layers, where activations are floats."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from torch import nn

from steer import pocket
from steer.generate.apply import Sampling, generate
from steer.hooks.clock import TokenClock
from steer.hooks.inject import injected
from steer.hooks.record import capture
from steer.models.fingerprint import fingerprint
from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource
from steer.steering.operation import Operation
from steer.steering.projection import Projection
from steer.steering.steers import Steer
from steer.vectors.sites import Site

PROMPTS = ["w5 w9", "w60 w3 w4"]
GREEDY = Sampling(max_tokens=6, temperature=0)


class Int8Linear(nn.Module):
    """A linear map with weights of 8 bits and a scale for each output."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("weight", (linear.weight.detach() / scale).round().to(torch.int8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.weight.to(x.dtype) * self.scale.to(x.dtype)).T


def quantised(family: str, dtype: torch.dtype) -> Model:
    network = tiny.build(family).to(dtype)
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Linear) and module.bias is None and name != "lm_head":
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, Int8Linear(module))
    assert any(isinstance(module, Int8Linear) for module in network.modules())
    return tiny.wrapped(network, "int8")


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_quantised_layers_are_steered_as_others(family: str, dtype: torch.dtype) -> None:
    model = quantised(family, dtype)

    def texts(*steers: Steer) -> list[str]:
        return [generation.text for generation in generate(model, PROMPTS, steers, GREEDY)]

    assert texts(tiny.steer(model, 0.0)) == texts()
    assert texts(tiny.steer(model, 20.0)) != texts()
    steer = replace(tiny.steer(model), op=Operation("ablate"))
    ids, mask = model.padded([model.encode(PROMPTS[0])], left=True)
    seen: list[torch.Tensor] = []
    clock = TokenClock(ids.shape[1], torch.zeros(1, dtype=torch.int64))
    with injected(model, [steer], clock, {Site(1): seen.append}):
        model.network(input_ids=ids, attention_mask=mask)
    u = torch.from_numpy(Projection(steer.vector, 1).direction)
    assert seen[0].dtype == dtype
    size = seen[0].float().norm(dim=-1)
    assert ((seen[0].float() @ u).abs() < 4 * torch.finfo(dtype).eps * size + 1e-5 * size).all()


def test_weights_without_views_have_a_fingerprint() -> None:
    """Such as torchao's: they can be made floats again, and little else."""

    class Packed(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if getattr(function, "__name__", "") == "flatten":
                raise NotImplementedError("no views")
            if getattr(function, "__name__", "") == "dequantize":
                return args[0].as_subclass(torch.Tensor)
            return super().__torch_function__(function, types, args, kwargs or {})

    plain, packed = nn.Linear(8, 8), nn.Linear(8, 8)
    packed.load_state_dict(plain.state_dict())
    packed.weight = nn.Parameter(packed.weight.detach().as_subclass(Packed), requires_grad=False)
    assert fingerprint(packed) == fingerprint(plain)


def test_a_checkpoint_of_torchao_is_loaded_and_steered(tmp_path: Path) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    from transformers import AutoModelForCausalLM, TorchAoConfig

    config = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    network = AutoModelForCausalLM.from_pretrained(
        pocket.path(), quantization_config=config, dtype=torch.bfloat16, device_map="cpu"
    )
    network.save_pretrained(tmp_path)
    for file in pocket.path().glob("*token*"):
        shutil.copy(file, tmp_path)
    model = load(ModelSource(str(tmp_path), device="cpu"))
    assert "Int8" in type(model.network.model.layers[0].mlp.down_proj.weight).__name__
    assert model.identity.fingerprint != load(ModelSource("pocket")).identity.fingerprint
    prompt = "One day Mara woke up."
    plain, off, on = (
        next(generate(model, [prompt], steers, GREEDY)).text
        for steers in ([], [tiny.steer(model, 0.0)], [tiny.steer(model, 40.0)])
    )
    assert off == plain != on
    ids = torch.tensor([model.encode(prompt)])
    (seen,) = capture(model, ids, torch.ones_like(ids), [Site(1)]).values()
    assert seen.isfinite().all()
