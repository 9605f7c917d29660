"""vLLM steered, against the hooks. Runs where vLLM is installed: `make test-vllm`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from families import randomised
from typer.testing import CliRunner

from steer.cli.main import app
from steer.generate.apply import continue_ids
from steer.hooks.clock import TokenClock
from steer.hooks.inject import injected
from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource
from steer.steering.generation import Sampling
from steer.steering.operation import Coefficient, Operation
from steer.steering.scope import Scope
from steer.steering.steers import Steer

vllm_engine = pytest.importorskip("steer.engines.vllm_engine")
pytest.importorskip("vllm", reason="vLLM is not installed here; `make test-vllm` installs it")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB

ROOT = Path(__file__).parents[1]
_SIZE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
MODES = (
    ("Gemma2", "eager"),
    ("Gemma2", "compiled"),
    ("Llama", "eager"),
    ("Llama", "compiled"),
    ("Mistral", "compiled"),
    ("Qwen2", "compiled"),
    ("Qwen3", "eager"),
    ("Qwen3", "compiled"),
)
ROWS = [[1, 5, 9, 13, 17], [1, 20, 21], [1, 40, 41, 42, 43, 44, 45, 46]]


def saved(folder: Path, family: str) -> Path:
    config = getattr(transformers, f"{family}Config")(**_SIZE)
    network = randomised(getattr(transformers, f"{family}ForCausalLM"), config)
    network.generation_config.eos_token_id = None
    network.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def steerings(model: Model) -> list[list[Steer]]:
    """One of each kind that the engine has, and none."""
    first, second = (tiny.vector(model, layers=(0, 1, 2), seed=seed) for seed in (0, 1))
    pre = tiny.vector(model, layers=(1,), site="resid_pre", seed=2)
    coefficient = Coefficient(1.0)
    return [
        [],
        [Steer(first, Coefficient(1.5), (1,))],
        [Steer(first, coefficient, (0, 1, 2)), Steer(second, Coefficient(-2.0), (2,))],
        [
            Steer(pre, coefficient, (1,), Scope("response")),
            Steer(second, coefficient, (2,), Scope("prompt")),
        ],
        [Steer(first, coefficient, (1,), op=Operation("ablate"))],
        [
            Steer(first, Coefficient(0.5), (2,), op=Operation("clamp", "pos")),
            Steer(second, coefficient, (2,), op=Operation("cap", 0.1)),
            Steer(second, coefficient, (0,), op=Operation("floor", 0.3)),
        ],
        [tiny.low_rank_steer(model, 0.7, layers=(1, 2)), Steer(second, coefficient, (1,))],
    ]


def hooked(model: Model, ids: list[int], steers: list[Steer]) -> np.ndarray:
    clock = TokenClock(len(ids), torch.zeros(1, dtype=torch.int64))
    with torch.no_grad(), injected(model, steers, clock):
        logits = model.network(torch.tensor([ids])).logits[0, -1]
    return torch.log_softmax(logits.double(), -1).numpy()


@pytest.fixture(params=MODES, ids="-".join)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, Model]]:
    family, mode = request.param
    source = ModelSource(str(saved(tmp_path / family, family)))
    model = load(source)
    options = {"enforce_eager": mode == "eager", "max_model_len": 64, "max_logprobs": -1}
    every = steerings(model)
    with vllm_engine.running(source, every, gpu_memory_utilization=0.2, **options) as engine:
        yield engine, model, every


def test_a_mixed_batch_gives_what_hooks_give(engine: tuple[Any, Model, list[list[Steer]]]) -> None:
    running, model, every = engine
    rows = [(ids, steers) for ids in ROWS for steers in every]
    log_probs = running.log_probs([ids for ids, _ in rows], [steers for _, steers in rows], -1)
    plain = {tuple(ids): hooked(model, ids, []) for ids in ROWS}
    for (ids, steers), row in zip(rows, log_probs, strict=True):
        expected = hooked(model, ids, steers)
        got = np.array([row[token] for token in range(len(expected))])
        np.testing.assert_allclose(got, expected, atol=1e-4)
        if steers:
            assert np.abs(expected - plain[tuple(ids)]).max() > 1e-2


def printed(*arguments: str) -> Any:
    """What a command prints as JSON."""
    run = CliRunner().invoke(app, [*arguments, "--json"])
    assert run.exit_code == 0, run.output
    return json.loads(run.stdout)


def unrelated(folder: Path) -> str:
    (folder / "unrelated.txt").write_text("The bus was late.\nThe dog slept.\n")
    return f"{folder}/unrelated.txt"


def test_apply_writes_what_hooks_write() -> None:
    arguments = ("apply", "One day Mara woke up.", "-t", "0", "--compare", "--max-tokens", "24")
    steers = [f"{ROOT}/vectors/{name}.safetensors" for name in ("joyful", "sea")]
    arguments += ("-v", f"{steers[0]}:2@2", "-v", f"{steers[1]}:ablate@1/response")
    hooks = printed(*arguments)
    report = printed(*arguments, "--engine", "vllm", "--engine-option", "max_model_len=256")
    assert report["results"] == hooks["results"]
    assert report["results"][0]["text"] != report["results"][0]["unsteered"]


def test_cells_of_an_evaluation_write_as_hooks_do() -> None:
    source = ModelSource("pocket", device="cpu")
    model = load(source)
    cells = [*steerings(model), [tiny.steer(model, -1.0, layers=(0, 3))]]
    begun = [(model.encode(text), index) for index, text in enumerate(("One day", "Kofi"))]
    greedy = Sampling(max_tokens=16, temperature=0)
    with vllm_engine.running(source, cells, max_model_len=256, enforce_eager=True) as engine:
        rows = [(ids, cell) for cell in cells for ids in begun]
        continuations = engine.continue_ids(
            [row for row, _ in rows], [cell for _, cell in rows], greedy
        )
    expected = [ids for cell in cells for ids in continue_ids(model, begun, cell, greedy)]
    assert continuations == expected
    assert len({tuple(ids) for ids in continuations}) > len(begun)


def test_an_evaluation_differs_by_its_texts_alone(tmp_path: Path) -> None:
    for name, text in (("pairs", "Mara {} home."), ("more", "Kofi {} along the beach.")):
        lines = [{"positive": text.format("ran"), "negative": text.format("crept")}]
        lines += [{"positive": text.format("danced"), "negative": text.format("trudged")}]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    arguments = ["eval", "-v", f"{ROOT}/vectors/joyful.safetensors:3@2"]
    arguments += ["--texts", str(tmp_path / "pairs.jsonl"), "--unrelated", unrelated(tmp_path)]
    arguments += ["--condition", "", "--concept", "words:happy,glad,lovely,cheerful"]
    arguments += ["--samples", "8", "--max-tokens", "16"]
    hooks = printed(*arguments)["rows"]
    options = ("--engine-option", "enforce_eager=true", "--engine-option", "max_model_len=256")
    rows = printed(*arguments, "--engine", "vllm", *options)["rows"]
    for row, other in zip(rows, hooks, strict=True):
        # What is scored is scored by the hooks; what is written is drawn by other numbers.
        for name in ("preference", "right_way", "kl", "shifts"):
            assert row[name] == other[name]
        assert row["samples"] != other["samples"]
        assert row["label"] == "unsteered" or row["extra_nats"]["value"] is not None
    assert rows[1]["samples"] != rows[0]["samples"]


def test_a_sweep_scores_what_it_scores_without(tmp_path: Path) -> None:
    arguments = (
        "sweep",
        "-v",
        f"{ROOT}/vectors/joyful.safetensors",
        "--layers",
        "2,3",
    )
    arguments += ("--coefficients", "20%,27%", "--texts", f"{ROOT}/examples/contrasts/joyful.jsonl")
    arguments += ("--samples", "8", "--max-tokens", "16", "--allow-overlap", "--max-nats", "9")
    arguments += ("--max-kl", "9", "--unrelated", unrelated(tmp_path))
    hooks = printed(*arguments)
    options = ("--engine-option", "enforce_eager=true", "--engine-option", "max_model_len=256")
    report = printed(*arguments, "--engine", "vllm", *options)
    assert report["cells"] == hooks["cells"]
    assert report["samples"] != hooks["samples"]
