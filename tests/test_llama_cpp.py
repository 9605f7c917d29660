"""Our control vectors in llama.cpp itself do what our hooks do.

Runs where llama-cpp-python is: `make test-llama` builds it, which takes a quarter of an hour.
"""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import steer
from steer.cli.main import app
from steer.hooks.clock import TokenClock
from steer.hooks.inject import injected
from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource
from steer.steering.operation import Coefficient, Operation
from steer.steering.steers import Steer
from steer.vectors import store

SCRIPT = Path(__file__).parent / "engines" / "in_llama_cpp.py"
TEXT = "One day Ada woke up. The day was"
JOYFUL = Path(steer.__file__).parents[1] / "vectors" / "joyful.safetensors"


@cache
def interpreter() -> str:
    """A Python that has llama-cpp-python, or a skip that says how to get one."""
    python = os.environ.get("STEER_LLAMA_PYTHON", "")
    if not python:
        pytest.skip(
            "STEER_LLAMA_PYTHON names no Python that has llama-cpp-python (make test-llama)"
        )
    return python


def in_llama_cpp(
    model: Model, tokens: list[int], vectors: list[str | None], folder: Path
) -> torch.Tensor:
    """Log-probs [vector, token, vocabulary]."""
    config = model.network.config
    names = ["hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads"]
    names += ["num_key_value_heads", "rms_norm_eps", "vocab_size"]
    settings = {name: getattr(config, name) for name in names} | {
        "head_dim": config.hidden_size // config.num_attention_heads,
        "rope_theta": config.rope_parameters["rope_theta"],
    }
    for name, content in (("config", settings), ("tokens", tokens), ("vectors", vectors)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    weights = {name: tensor.numpy() for name, tensor in model.network.state_dict().items()}
    np.savez(folder / "weights.npz", **weights)
    run = subprocess.run(
        [interpreter(), str(SCRIPT), str(folder)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return torch.from_numpy(np.load(folder / "logits.npy")).log_softmax(-1)


def in_ours(model: Model, tokens: list[int], steers: list[Steer]) -> torch.Tensor:
    """Log-probs [token, vocabulary]."""
    clock = TokenClock(len(tokens), torch.zeros(1, dtype=torch.int64))
    with torch.no_grad(), injected(model, steers, clock):
        logits = model.network(input_ids=torch.tensor([tokens])).logits
    return logits[0].float().log_softmax(-1)


def test_llama_cpp_gives_our_log_probs(tmp_path: Path) -> None:
    interpreter()
    model, joyful = load(ModelSource()), store.read(JOYFUL)
    tokens = model.encode(TEXT)
    files: list[str | None] = [None]
    ours = [in_ours(model, tokens, [])]
    cases = [((1,), 1.0), ((2,), -0.5), ((3,), 0.7), ((4,), 0.3), ((1, 2, 3, 4), 0.2)]
    for layers, coefficient in cases:
        steer_it = Steer(joyful, Coefficient(coefficient), layers)
        ours.append(in_ours(model, tokens, [steer_it]))
        files.append(str(tmp_path / f"{len(files)}.gguf"))
        spec = f"{JOYFUL}:{coefficient}@{','.join(map(str, layers))}"
        run = CliRunner().invoke(app, ["convert", spec, str(files[-1])])
        assert run.exit_code == 0, run.output
    theirs = in_llama_cpp(model, tokens, files, tmp_path)
    distances = [
        float((our_value - two).abs().max()) for our_value, two in zip(ours, theirs, strict=True)
    ]
    assert max(distances) < 1e-4
    # That could fail: each vector does much, and none what another does.
    assert min(float((a - b).abs().max()) for a, b in combinations(ours, 2)) > 0.1


def test_a_baked_model_gives_the_hooks_log_probs_in_llama_cpp(tmp_path: Path) -> None:
    """Constants in biases, and a direction taken out of every matrix: no control vector needed."""
    interpreter()
    model, joyful = load(ModelSource()), store.read(JOYFUL)
    tokens = model.encode(TEXT)
    ablated = Steer(joyful, Coefficient(1.0), (2,), op=Operation("ablate", writes=True))
    added = Steer(joyful, Coefficient(2.0), (2,))
    cases = {"2": added, "ablate=writes": ablated}
    plain = in_ours(model, tokens, [])
    for amount, steer_it in cases.items():
        path = tmp_path / amount
        run = CliRunner().invoke(app, ["bake", "-v", f"{JOYFUL}:{amount}@2", "-o", str(path)])
        assert run.exit_code == 0, run.output
        baked = load(ModelSource(str(path)))
        ours = in_ours(model, tokens, [steer_it])
        theirs = in_llama_cpp(baked, tokens, [None], tmp_path)[0]
        assert float((ours - theirs).abs().max()) < 1e-4
        assert float((ours - plain).abs().max()) > 0.1
