"""An adapter does beside the weights what the hooks do, by its own numbers and as peft runs it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from conftest import make_vector
from torch import Tensor
from typer.testing import CliRunner

from steer.baking import lora
from steer.baking.check import log_probs
from steer.base.errors import ModelError, VectorError
from steer.cli.main import app
from steer.models.adapter import is_installed
from steer.models.model import Model
from steer.steering.spec import parse
from steer.steering.steers import Steer, resolve
from steer.vectors import store

FAMILIES = ["llama", "gpt2", "qwen2"]


def steer(model: Model, spec: str, **more: Any) -> Steer:
    return resolve(parse(spec), make_vector(model.identity, layers=(0, 1), **more))


def with_factors(model: Model, adapter: lora.Adapter, rows: list[Tensor]) -> list[Tensor]:
    """Log-probs of the model with the adapter's numbers put in by hand."""
    network = copy.deepcopy(model.network)
    for factor in adapter.factors:
        module = network.get_submodule(factor.module)
        change = factor.up @ factor.down  # [out, in]
        turned = adapter.transposed or factor.of_embedding
        # An output matrix that shares the embedding's is left as it was.
        module.weight = torch.nn.Parameter(module.weight + (change.T if turned else change))
        if factor.bias is not None:
            module.register_forward_hook(lambda _m, _a, out, bias=factor.bias: out + bias)
    names_found = []
    for row in rows:
        with torch.no_grad():
            logits = network(input_ids=row[None], use_cache=False).logits[0]
        names_found.append(logits.float().log_softmax(-1))
    return names_found


@pytest.mark.parametrize("spec", ["calm:2", "calm:ablate=writes@1", "calm:0.5,ablate=writes@1"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_factors_do_what_the_hooks_do(family: str, spec: str) -> None:
    model = tiny.model(family)
    rows = [torch.tensor([4, 9, 2, 7, 11])]
    steers = [steer(model, spec)]
    try:
        adapter = lora.adapter_of(model, steers)
    except ModelError as error:  # a family with biases: PEFT has none beside an embedding
        assert "ablate" in spec
        assert "no LoRA" in str(error)
        return
    [there], [wanted] = with_factors(model, adapter, rows), log_probs(model, rows, steers)
    [plain] = log_probs(model, rows)
    assert float((there - wanted).abs().max()) < 1e-4 < float((plain - wanted).abs().max())


def test_two_ablations_are_taken_out_one_after_the_other() -> None:
    model = tiny.model("llama")
    rows = [torch.tensor([4, 9, 2, 7])]
    steers = [steer(model, "calm:ablate=writes@1"), steer(model, "calm:ablate=writes@0", seed=5)]
    adapter = lora.adapter_of(model, steers)
    [there], [wanted] = with_factors(model, adapter, rows), log_probs(model, rows, steers)
    assert float((there - wanted).abs().max()) < 1e-4
    assert adapter.rank == 2


@pytest.mark.parametrize("spec", ["calm:1/response", "calm:clamp=0", "calm:ablate@1"])
def test_what_no_adapter_can_do_is_refused(spec: str) -> None:
    model = tiny.model("llama")
    with pytest.raises(VectorError, match="calm"):
        lora.adapter_of(model, [steer(model, spec)])


def test_the_folder_is_pefts_and_is_replaced_only_when_asked(tmp_path: Path) -> None:
    store.write(tmp_path / "calm.safetensors", make_vector(_pocket_identity(), layers=(1,)))
    words = ["bake", "-v", str(tmp_path / "calm.safetensors"), "--lora", "-o",
             str(tmp_path / "adapter"), "--json"]  # fmt: skip
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "adapter" / lora.CONFIG).read_text())
    assert config["peft_type"] == "LORA"
    assert config["lora_bias"]
    report = json.loads(result.stdout)
    assert (report["difference"] is None) == (not is_installed())
    assert CliRunner().invoke(app, words).exit_code == 1
    assert CliRunner().invoke(app, [*words, "--force"]).exit_code == 0


def _pocket_identity() -> Any:
    from steer.models.loading import load
    from steer.models.source import ModelSource

    return load(ModelSource("pocket", device="cpu")).identity


@pytest.mark.skipif(not is_installed(), reason="peft is not installed")
@pytest.mark.parametrize("spec", ["calm:2", "calm:ablate=writes@1"])
def test_peft_runs_the_adapter_as_the_hooks_steer(spec: str, tmp_path: Path) -> None:
    model = tiny.model("llama")
    report = lora.export(model, [steer(model, spec)], tmp_path / "adapter", texts=["w4 w7 w60"])
    assert report.difference is not None
    assert report.difference.passed
    assert not report.difference.is_inconclusive


def test_a_vector_is_not_mistaken_for_noise() -> None:
    """The steers above change what the tiny models say, so that the comparisons mean something."""
    model = tiny.model("llama")
    rows = [torch.tensor([4, 9, 2])]
    moved = log_probs(model, rows, [steer(model, "calm:2")])[0] - log_probs(model, rows)[0]
    assert np.abs(moved.numpy()).max() > 1e-3
