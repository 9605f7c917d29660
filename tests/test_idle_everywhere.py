"""A steer that turns out at run time to change nothing is reported as steering by no front end."""

from __future__ import annotations

import inspect
import json
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fake_vllm
import pytest
import tiny
import torch
from serving_here import post
from test_cli import failed, steer
from test_injection import gated

import steer as api
from steer.base.errors import IdleError
from steer.engines import ray_workers, vllm_engine
from steer.hooks.steered import steered
from steer.measures import grids
from steer.models.model import Model
from steer.steering.generation import Sampling
from steer.steering.operation import Coefficient, Operation
from steer.steering.projection import Gate, Threshold
from steer.steering.scope import Schedule, Scope
from steer.steering.steers import Steer
from steer.vectors import store
from steer.workers import Job

#: Below what bfloat16 can add to an activation, unless that is 0, as is rare: nothing tells that
#: beforehand.
IDLE = "calm:1e-20@1"
OPEN = "calm@0<1e6/mean"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="module")
def model(folder: Path) -> api.Model:
    return api.load(folder, dtype="bfloat16")


@pytest.fixture(autouse=True)
def _files(model: api.Model) -> None:
    Path("vectors").mkdir()
    vector = tiny.vector(model.inner, layers=(0, 1, 2))
    store.write(Path("vectors/calm.safetensors"), vector)
    Path("prompts.txt").write_text("w5 w9\nw7 w8 w4\n")
    rows = [
        {"positive": f"w{n} w{n + 7} w{n + 9}", "negative": f"w{n} w{n + 20}"} for n in range(3, 15)
    ]
    Path("plain.txt").write_text("".join(f"w{n} w{n + 2} w{n + 3}\n" for n in range(3, 33)))
    Path("held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


SETTINGS = ["--dtype", "bfloat16", "--max-tokens", 4]
MEASURED = ["--texts", "held.jsonl", "--samples", 4]
COMMANDS: dict[str, list[object]] = {
    "apply": ["apply", "w5 w9", "-v", IDLE],
    "apply --json": ["apply", "w5 w9", "-v", IDLE, "--json"],
    "apply --compare": ["apply", "w5 w9", "-v", IDLE, "--compare"],
    "apply --when": ["apply", "w5 w9", "-v", IDLE, "--when", OPEN, "--json"],
    "apply --when token": ["apply", "w5 w9", "-v", IDLE, "--when", "calm@0<1e6/token", "--json"],
    "apply --watch": ["apply", "w5 w9", "-v", IDLE, "--watch", "calm@1", "--json"],
    "apply --beams": ["apply", "w5 w9", "-v", IDLE, "--beams", 2, "-t", 0, "--json"],
    "apply --prompts": ["apply", "--prompts", "prompts.txt", "-v", IDLE, "--json"],
    "apply beside another": ["apply", "w5 w9", "-v", "calm:2@0", "-v", IDLE, "--json"],
    "chat": ["chat", "-v", IDLE, "--json"],
    "eval": ["eval", "-v", IDLE, *MEASURED],
    "sweep": ["sweep", "-v", "calm", "--layers", 1, "--coefficients", "1e-20", *MEASURED],
    "suite": ["suite", "--condition", "w9 w4", "--methods", "mean_diff", "--texts", "plain.txt",
              "--samples", 4],
    "apply in vLLM": ["apply", "w5 w9", "-v", IDLE, "--engine", "vllm"],
    "apply --prompts in vLLM": ["apply", "--prompts", "prompts.txt", "-v", IDLE, "--engine", "vllm",
                                "--json"],
    "eval in vLLM": ["eval", "-v", IDLE, *MEASURED, "--engine", "vllm"],
    "sweep in vLLM": ["sweep", "-v", "calm", "--layers", 1, "--coefficients", "1e-20", *MEASURED,
                      "--engine", "vllm"],
    "eval on Ray": ["eval", "-v", IDLE, *MEASURED, "--ray", "local"],
    "sweep on Ray": ["sweep", "-v", "calm", "--layers", 1, "--coefficients", "1e-20", *MEASURED,
                     "--ray", "local"],
}  # fmt: skip


@dataclass
class RemoteModel:
    """Workers of a cluster, in this process: what they get and what they give back travels."""

    model: Model

    @property
    def actors(self) -> list[Model]:
        return [self.model]

    def map(self, job: Job[Any, Any], items: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        do = job(self.model)
        for number, item in enumerate(items):
            outcome = do(pickle.loads(pickle.dumps(item)))
            yield number, pickle.loads(pickle.dumps(outcome))


@pytest.fixture
def _elsewhere(monkeypatch: pytest.MonkeyPatch, model: api.Model) -> None:
    @contextmanager
    def on_cluster(source: Any, address: str, count: int | None) -> Iterator[RemoteModel]:
        yield RemoteModel(model.inner)

    fake_vllm.install(monkeypatch)
    monkeypatch.setattr(ray_workers, "on_cluster", on_cluster)
    monkeypatch.setattr(vllm_engine, "ARCHITECTURES", ("LlamaForCausalLM",))
    # What a suite tries is below what bfloat16 can add.
    monkeypatch.setattr(grids, "SHARES", (1e-20, 2e-20))


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize("name", COMMANDS)
def test_commands(folder: Path, name: str) -> None:
    words = [*COMMANDS[name], "-m", folder, *SETTINGS]
    result = steer(*words, stdin="w5 w9\n" if name == "chat" else None)
    assert result.exit_code == 1, result.output
    assert "changed nothing" in result.stderr
    # The text is there before it is known.
    if name not in ("apply", "apply --compare", "apply in vLLM"):
        failed(result, 1)


@pytest.mark.parametrize(
    "words",
    [
        ["bake", "-v", IDLE, "-o", "out", "--dtype", "bfloat16"],
        ["bake", "-v", "calm:2@0", "-v", IDLE, "-o", "out", "--dtype", "bfloat16"],
        ["bake", "-v", IDLE, "-o", "out", "--lora"],
        ["bake", "-v", "calm:1e-60@1", "-o", "out"],
        ["bake", "-v", "calm:1e-6@1", "-o", "out"],  # bits change, below rounding
        ["bake", "-v", "calm:1e-4@1", "-o", "out", "--dtype", "bfloat16"],
        ["convert", "calm:0@1", "out.gguf"],
        ["convert", "calm:1e-60@1", "out.npz"],
        ["combine", "calm:0", "-o", "out.safetensors"],
    ],
    ids=" ".join,
)
def test_nothing_is_written_that_would_steer_nothing(folder: Path, words: list[str]) -> None:
    model = ["-m", folder] if words[0] == "bake" else []
    failed(steer(*words, *model), 1)
    assert not list(Path().glob("out*"))


@pytest.mark.usefixtures("_elsewhere")
def test_an_idle_steer_that_is_allowed_is_named(folder: Path) -> None:
    named = ("apply --json", "apply --when", "apply --prompts", "chat", "apply --prompts in vLLM")
    for name in named:
        words = [*COMMANDS[name], "-m", folder, *SETTINGS, "--allow-idle"]
        result = steer(*words, stdin="w5 w9\n" if name == "chat" else None)
        assert result.exit_code == 0, result.stderr
        assert "changed nothing" in result.stderr
        printed = json.loads(result.stdout)
        entries = printed["answers" if name == "chat" else "results"]
        assert entries and all(entry.get("steered", entry)["idle"] for entry in entries)


def test_a_layer_where_a_sweep_changes_nothing_is_left_out(folder: Path) -> None:
    """Behind the last attention what is done to a prompt reaches nothing that is scored."""
    Path("prompted.jsonl").write_text(
        "".join(
            json.dumps({"prompt": f"w{n} w9", "positive": f"w{n + 7} w4", "negative": f"w{n + 20}"})
            + "\n"
            for n in range(3, 15)
        )
    )
    words = ["sweep", "-v", "calm:add/prompt", "--coefficients", "0.5,1",
             "--texts", "prompted.jsonl", "--samples", 4, "--max-tokens", 4, "-m", folder,
             "--json"]  # fmt: skip
    result = steer(*words)  # that a tiny model's vector is recommended is not said
    printed = json.loads(result.stdout)
    assert printed["rows"] == ["layer 0", "layer 1"] and printed["idle"] == ["layer 2"]
    assert {cell["layers"] for cell in printed["cells"]} == {"0", "1"}
    assert "layer 2 is left out" in result.stderr
    alone = steer(*words, "--layers", "2")
    assert alone.exit_code == 1 and "changed nothing" in alone.stderr


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "w5 w9", "max_tokens": 3}),
        ("/v1/completions", {"prompt": ["w5 w9", "w4"], "n": 2, "max_tokens": 3, "when": OPEN}),
        ("/v1/completions", {"prompt": "w5 w9", "max_tokens": 3, "stream": True}),
        ("/api/generate", {"prompt": "w5 w9", "raw": True, "stream": False}),
    ],
)
def test_requests(model: api.Model, path: str, body: dict[str, Any]) -> None:
    vectors = {"calm": api.read("calm").data}
    settings: dict[str, Any] = {"temperature": 0}
    if "raw" in body:
        settings = {"options": {"num_predict": 3, "temperature": 0}}
    for spec, is_idle in ((IDLE, True), ("calm:8@1", False)):
        answer = post(model.inner, vectors, path, {**settings, **body, "steer": spec})
        assert answer.status_code == 200, answer.text
        lines = [line.removeprefix("data: ") for line in answer.text.splitlines()]
        events = [json.loads(line) for line in lines if line and line != "[DONE]"]
        idle = [name for event in events for name in event.get("steer", {}).get("idle", [])]
        assert bool(idle) == is_idle


def bare(model: api.Model, steer: Steer, **options: Any) -> None:
    with model.steered(steer, **options), torch.no_grad():
        model.hf(input_ids=torch.tensor([[1, 5, 9]]))


def cached(model: api.Model, steer: Steer, **options: Any) -> None:
    with model.steered(steer, **options), torch.no_grad():
        first = model.hf(input_ids=torch.tensor([[1, 5, 9]]), use_cache=True)
        named = inspect.signature(model.hf.forward).parameters
        cache = {"cache" if "cache" in named else "past_key_values": first.past_key_values}
        for token in (4, 7):
            ids = torch.tensor([[token]])
            model.hf(input_ids=ids, use_cache=True, **cache)


def generating(model: api.Model, steer: Steer, **options: Any) -> None:
    with model.steered(steer, **options):
        model.hf.generate(torch.tensor([[1, 5, 9]]), max_new_tokens=3, do_sample=False)


LIBRARY: dict[str, Callable[..., Any]] = {
    "generate": lambda model, steer, **options: model.generate(
        "w5", steer, max_tokens=3, **options
    ),
    "generate_batch": lambda model, steer, **options: model.generate_batch(
        ["w5", "w7 w8"], steer, max_tokens=3, **options
    ),
    "conversation": lambda model, steer, **options: model.chat(**options).answer(
        "w5", [steer], Sampling(3), lambda text: None
    ),
    "steered": bare,
    "steered cache": cached,
    "steered generate": generating,
}


@pytest.mark.parametrize("name", LIBRARY)
def test_library(model: api.Model, name: str) -> None:
    run, steer = LIBRARY[name], api.parse(IDLE)
    with pytest.raises(IdleError, match="changed nothing"):
        run(model, steer)
    run(model, steer, allow_idle=True)
    run(model, api.parse("calm:8@1"))
    run(model, api.parse("calm:0@1"))


@pytest.mark.parametrize("when", [Scope("steps", 40), Scope("range", 40), Schedule("after", 40)])
def test_a_scope_that_no_text_of_a_block_meets(when: Scope | Schedule) -> None:
    inner = tiny.model("llama")
    model = api.Model(inner)
    kind = "scope" if isinstance(when, Scope) else "schedule"
    for op in (Operation("add"), Operation("cap", 1e6)):
        steer = replace(tiny.steer(inner, 3.0), op=op, **{kind: when})
        for run in (bare, cached, generating):
            with pytest.raises(IdleError, match="changed nothing"):
                run(model, steer)
            run(model, steer, allow_idle=True)


def test_every_output_of_a_bare_forward_counts() -> None:
    """At the last layer a prompt's positions reach their own logits only: a forward shows them, and
    `generate` does not."""
    inner = tiny.model("llama")
    model = api.Model(inner)
    last = (inner.n_layers - 1,)
    steer = tiny.steer(inner, 3.0, Scope("prompt"), layers=last)
    bare(model, steer)
    with pytest.raises(IdleError):
        generating(model, steer)
    # Two texts in a block: one of them is enough.
    ids = torch.tensor([[1, 5, 9, 4, 7]])
    steer = tiny.steer(inner, 3.0, Scope("range", 4))
    with model.steered(steer), torch.no_grad():
        model.hf(input_ids=ids[:, :3])
        model.hf(input_ids=ids)
        model.hf(input_ids=ids[:, :2])


def test_padding_is_no_text() -> None:
    inner = tiny.model("llama")
    ids = torch.tensor([[1, 5, 9, 0, 0]])
    for left in (True, False):
        tokens = ids.roll(2) if left else ids
        mask = (tokens > 0).long()
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        for scope, is_idle in ((Scope("range", 3), True), (Scope("range", 2), False)):
            steer = tiny.steer(inner, 3.0, scope)
            with torch.no_grad():
                if is_idle:
                    with pytest.raises(IdleError), steered(inner, [steer]):
                        inner.network(tokens, attention_mask=mask, position_ids=positions)
                else:
                    with steered(inner, [steer]):
                        inner.network(tokens, attention_mask=mask, position_ids=positions)


def test_what_a_gate_holds_back_and_a_bound_lets_pass_is_not_idle() -> None:
    inner: Model = tiny.model("llama")
    model = api.Model(inner)
    projection = gated(inner, "mean").threshold.projection
    for pooling in ("mean", "last", "token"):
        for above, is_idle in ((True, False), (False, True)):
            gate = Gate(Threshold(projection, above, 1e6), pooling)  # type: ignore[arg-type]
            steer = replace(tiny.steer(inner, 3.0, Scope("steps", 40)), gate=gate)
            for run in (bare, generating):
                if is_idle:
                    with pytest.raises(IdleError):
                        run(model, steer)
                else:
                    run(model, steer)
    for run in (bare, cached, generating):
        run(model, replace(tiny.steer(inner), op=Operation("cap", 1e6)))
        run(model, replace(tiny.steer(inner), coefficient=Coefficient(0.0)))
