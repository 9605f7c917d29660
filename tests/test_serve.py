"""`steer serve` as OpenAI's own client sees it: the same laws on Hugging Face and on vLLM.

vLLM's part runs where it is installed: `make test-vllm`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import tiny
import torch
from msgspec import structs

from steer import pocket
from steer.generate.apply import generate
from steer.hooks.clock import TokenClock
from steer.hooks.inject import injected
from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource
from steer.serving.library import Library, read_library
from steer.steering import projection, spec
from steer.steering.generation import Sampling
from steer.steering.steers import Steer
from steer.vectors import store

ROOT = Path(__file__).parents[1]
KEY = "open sesame"
GREEDY = Sampling(max_tokens=12, temperature=0)
PROMPTS = ("One day Mara woke up.", "The boat", "In the evening Kofi")
STEERS: list[list[dict[str, Any]]] = [
    [],
    [{"vector": "joyful", "coefficient": 2, "layers": [2]}],
    [{"vector": "sea"}, {"vector": "joyful", "coefficient": -1.5, "layers": [1, 3]}],
    [{"vector": "joyful", "coefficient": "20%", "layers": [2], "scope": "response"}],
    [{"vector": "sea", "op": "ablate", "layers": "all"}],
    [{"vector": "joyful", "op": "clamp=pos"}, {"vector": "edit", "coefficient": 0.7}],
]


@cache
def model() -> Model:
    return load(ModelSource("pocket", device="cpu"))


def steers_of(library: Library, spec: Any) -> list[Steer]:
    return list(library.steering({"steer": spec}).steers)


@dataclass(frozen=True)
class Served:
    """A server that runs, and the vectors that it was given."""

    engine: str
    url: str
    library: Library
    client: Any

    def text(self, prompt: str, steer: Sequence[Any], **options: Any) -> str:
        request_options = {
            "max_tokens": 12,
            "temperature": 0,
            "extra_body": {"steer": steer},
        } | options
        answer = self.client.completions.create(model="pocket", prompt=prompt, **request_options)
        return str(answer.choices[0].text)

    def expected(self, prompt: str, steer: Sequence[Any], sampling: Sampling = GREEDY) -> str:
        """What `steer apply` writes."""
        return next(generate(model(), [prompt], steers_of(self.library, steer), sampling)).text


def folder_of_vectors(folder: Path) -> Path:
    """Two that ship with the repository, a random low-rank edit, one of another model, and two that
    recommend what cannot steer."""
    for name in ("joyful", "sea"):
        store.write(
            folder / f"{name}.safetensors",
            store.read(ROOT / f"vectors/{name}.safetensors"),
        )
    edit = tiny.low_rank_steer(model(), layers=(1, 2)).vector
    store.write(folder / "edit.safetensors", edit)
    store.write(folder / "other.safetensors", tiny.vector(tiny.model("llama")))
    joyful = store.read(folder / "joyful.safetensors")
    for name, coefficient in (("zero", 0.0), ("huge", 1e300)):
        recommended = structs.replace(joyful.metadata.recommended, coefficient=coefficient)
        changed = tiny.renamed(joyful, name=name, recommended=recommended)
        store.write(folder / f"{name}.safetensors", changed)
    return folder


def with_habits(folder: Path) -> Path:
    """Pocket with settings of its own for generation, as many checkpoints have them: what is served
    is the steered model, and nothing else.
    """
    shutil.copytree(pocket.path(), folder)
    file = folder / "generation_config.json"
    habits = {"repetition_penalty": 3.0, "no_repeat_ngram_size": 2, "top_k": 1}
    file.write_text(json.dumps(json.loads(file.read_text()) | habits))
    return folder


@pytest.fixture(scope="module", params=["huggingface", "vllm"])
def served(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Served]:
    arguments = []
    if request.param == "vllm":
        if find_spec("vllm") is None:
            pytest.skip("vLLM is not installed here; `make test-vllm` installs it")
        arguments = ["--engine", "vllm", "--engine-option", "enforce_eager=true"]
    folder = folder_of_vectors(tmp_path_factory.mktemp("vectors"))
    checkpoint = with_habits(tmp_path_factory.mktemp("models") / "pocket")
    command = [sys.executable, "-m", "steer", "serve", "-m", str(checkpoint)]
    command += ["--vectors", str(folder), "--port", "0"]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"} | os.environ
    process = subprocess.Popen(
        [*command, "--json", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if request.param == "huggingface" else None,
        text=True,
        env=environment | {"PYTHONPATH": str(ROOT), "STEER_API_KEY": KEY},
    )
    assert process.stdout is not None
    lines = [process.stdout.readline()]
    while lines[-1] != "}\n":
        assert lines[-1], process.communicate()
        lines.append(process.stdout.readline())
    answer = json.loads("".join(lines))
    assert answer["vectors"] == ["edit", "joyful", "sea"]
    library, _ = read_library(folder)
    with openai.OpenAI(base_url=answer["url"], api_key=KEY, max_retries=0, timeout=300) as client:
        yield Served(request.param, answer["url"], library, client)
    process.terminate()
    process.communicate(timeout=60)


def test_requests_at_once_get_each_what_apply_gives(served: Served) -> None:
    requests = [(prompt, steer) for steer in STEERS for prompt in PROMPTS]
    with ThreadPoolExecutor(len(requests)) as pool:
        texts = list(pool.map(lambda request: served.text(*request), requests))
    assert texts == [served.expected(*request) for request in requests]
    for prompt in PROMPTS:
        assert (
            len({text for (of, _), text in zip(requests, texts, strict=True) if of == prompt}) > 3
        )


@pytest.mark.parametrize("steer", STEERS[:3])
def test_log_probs_are_those_of_the_hooks(served: Served, steer: list[Any]) -> None:
    answer = served.client.completions.create(
        model="pocket",
        prompt=PROMPTS[0],
        max_tokens=8,
        temperature=0,
        logprobs=3,
        extra_body={"steer": steer},
    )
    log_probs = answer.choices[0].logprobs
    assert "".join(log_probs.tokens) == answer.choices[0].text
    ids = model().encode(PROMPTS[0])
    for log_prob, top in zip(log_probs.token_logprobs, log_probs.top_logprobs, strict=True):
        clock = TokenClock(len(ids), torch.zeros(1, dtype=torch.int64))
        with torch.no_grad(), injected(model(), steers_of(served.library, steer), clock):
            row = model().network(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)
        best, at = row.topk(3)
        assert log_prob == pytest.approx(float(best[0]), abs=1e-4)
        np.testing.assert_allclose(sorted(top.values())[::-1][:3], best, atol=1e-4)
        ids = [*ids, int(at[0])]


def test_a_stream_is_the_answer_in_pieces(served: Served) -> None:
    stream = served.client.completions.create(
        model="pocket",
        prompt=list(PROMPTS[:2]),
        max_tokens=12,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"steer": STEERS[1]},
    )
    texts, finishes, usage = {0: "", 1: ""}, {}, None
    n_pieces = 0
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            n_pieces += bool(choice.text)
            texts[choice.index] += choice.text
            finishes[choice.index] = choice.finish_reason or finishes.get(choice.index)
    assert texts == {index: served.expected(PROMPTS[index], STEERS[1]) for index in texts}
    assert finishes == {0: "length", 1: "length"}
    assert n_pieces > 4
    assert usage is not None and usage.completion_tokens == 24


def test_a_chat_is_put_into_the_template(served: Served) -> None:
    messages = [{"role": "user", "content": "Tell me a story about the sea."}]
    prompt = model().chat(messages[0]["content"])
    steered = steers_of(served.library, STEERS[1])
    (expected,) = generate(model(), [prompt], steered, GREEDY, special=False)
    request: dict[str, Any] = {
        "model": "pocket",
        "messages": messages,
        "max_completion_tokens": 12,
        "max_tokens": 500,  # the older name of the same
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 2,
        "extra_body": {"steer": STEERS[1]},
    }
    answer = served.client.chat.completions.create(**request)
    choice = answer.choices[0]
    assert choice.message.content == expected.text
    assert [len(entry.top_logprobs) for entry in choice.logprobs.content] == [2] * 12
    stream = served.client.chat.completions.create(**request, stream=True)
    deltas = [chunk.choices[0].delta for chunk in stream if chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == expected.text


def test_what_is_drawn_belongs_to_the_seed(served: Served) -> None:
    def drawn(seed: int, n: int = 3) -> list[str]:
        answer = served.client.completions.create(
            model="pocket", prompt=PROMPTS[0], n=n, seed=seed, top_p=0.95, extra_body={}
        )
        return [choice.text for choice in answer.choices]

    first = drawn(1)
    assert first == drawn(1)
    assert len({*first, *drawn(2)}) > 3


def test_a_stop_string_ends_the_text(served: Served) -> None:
    full_text = served.text(PROMPTS[0], STEERS[1], max_tokens=24)
    stop = full_text[8:11]
    answer = served.client.completions.create(
        model="pocket",
        prompt=PROMPTS[0],
        max_tokens=24,
        temperature=0,
        stop=[stop, "nothing of the kind"],
        extra_body={"steer": STEERS[1]},
    )
    assert answer.choices[0].text == full_text[: full_text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("steer", "status", "message"),
    [
        ([{"vector": "joy"}], 404, "did you mean 'joyful'"),
        ([{"vector": "joy"}], 404, "edit, joyful and sea"),
        ([{"vector": "../vectors/joyful.safetensors"}], 404, "there is no vector"),
        ([{"vector": "other"}], 404, "there is no vector"),
        ([{"vector": "joyful", "layer": [2]}], 400, "layer"),
        ([{"vector": "joyful", "layers": [77]}], 400, "layer 77"),
        ([{"vector": "joyful", "layers": []}], 400, "layers"),
        ([{"vector": "joyful", "coefficient": "strong"}], 400, "strong"),
        ([{"vector": "joyful", "coefficient": True}], 400, "coefficient"),
        ([{"vector": "joyful", "coefficient": 1e30}], 400, "coefficient"),
        ([{"vector": "joyful", "op": "explode"}], 400, "explode"),
        ([{"vector": "joyful", "directions": [0.5]}], 400, "directions"),
        ({"vector": "joyfull"}, 404, "did you mean"),
        ("joyful:strong", 400, "strong"),
        ("./vectors/joyful.safetensors", 404, "there is no vector"),
        (2, 400, "steer"),
    ],
)
def test_steers_that_mean_nothing_are_errors(
    served: Served, steer: Any, status: int, message: str
) -> None:
    with pytest.raises(openai.APIStatusError, match=message) as caught:
        served.text(PROMPTS[0], steer)
    assert caught.value.status_code == status
    assert caught.value.body["param"].startswith("steer")


def test_what_is_asked_for_elsewhere_is_not_dropped(served: Served) -> None:
    create = served.client.completions.create
    for body in (
        {"steering": STEERS[1]},
        {"Steer": STEERS[1]},
        {"extra_body": {"steer": STEERS[1]}},
        {"vllm_xargs": {"steer": "[]"}},
    ):
        with pytest.raises(openai.BadRequestError):
            create(model="pocket", prompt="One", extra_body=body)
    with pytest.raises(openai.NotFoundError):
        served.client.responses.create(model="pocket", input="One", extra_body={"steer": STEERS[1]})
    with pytest.raises(openai.NotFoundError, match="gpt"):
        create(model="gpt-9", prompt="One")
    with pytest.raises(openai.BadRequestError):
        create(model="pocket", prompt="One", max_tokens=10**6)
    with pytest.raises(openai.APIStatusError) as caught:
        create(model="pocket", prompt="One " * 3_000_000)
    assert caught.value.status_code == 413


def test_it_says_what_it_has_and_did(served: Served) -> None:
    assert next(iter(served.client.models.list())).id == "pocket"
    vectors = served.client.get("/vectors", cast_to=object)["data"]
    assert [vector["id"] for vector in vectors] == ["edit", "joyful", "sea"]
    answer = served.client.completions.with_raw_response.create(
        model="pocket", prompt="One", max_tokens=1, extra_body={"steer": [{"vector": "sea"}]}
    )
    (did,) = json.loads(answer.headers["x-steer"])
    usual = next(vector["recommended"] for vector in vectors if vector["id"] == "sea")
    assert did["vector"] == "sea"
    assert {name: did[name] for name in usual} == usual


def test_a_key_is_asked_for(served: Served) -> None:
    for path in ("/models", "/vectors"):
        with pytest.raises(openai.AuthenticationError):
            served.client.with_options(api_key="wrong").get(path, cast_to=object)
    with pytest.raises(openai.AuthenticationError):
        served.client.with_options(api_key="wrong").completions.create(model="pocket", prompt="One")


def test_hugging_face_draws_as_apply_does_and_not_without_end(served: Served) -> None:
    if served.engine == "vllm":
        pytest.skip("vLLM draws numbers of its own, and has bounds of its own")
    sampling = replace(GREEDY, temperature=0.8, seed=5, top_p=0.9)
    text = served.text(PROMPTS[0], STEERS[1], temperature=0.8, seed=5, top_p=0.9)
    assert text == served.expected(PROMPTS[0], STEERS[1], sampling)
    with pytest.raises(openai.BadRequestError):
        served.client.completions.create(model="pocket", prompt=["One"] * 100, n=100)


def test_hugging_face_tells_what_steering_did(served: Served) -> None:
    if served.engine == "vllm":
        pytest.skip("vLLM's own server has other answers")
    read = projection.projection(spec.parse_read("joyful@2"), served.library.vectors["joyful"])
    steer = [{"vector": "sea", "when": "joyful@1>0.1/mean"}, {"vector": "joyful"}]
    alone = next(
        generate(model(), PROMPTS[:1], steers_of(served.library, steer), GREEDY, watched=[read])
    )
    request: dict[str, Any] = {
        "model": "pocket",
        "prompt": PROMPTS[0],
        "max_tokens": 12,
        "temperature": 0,
        "extra_body": {"steer": steer, "watch": "joyful@2"},
    }
    answer = served.client.completions.create(**request)
    report = answer.choices[0].steer
    assert report["tokens"] == alone.tokens
    np.testing.assert_allclose(report["watched"]["joyful@2"], alone.watched["joyful@2"], atol=1e-3)
    assert [gate["share"] for gate in report["gates"]] == [gate.share for gate in alone.gates]
    assert [steer_shown["vector"] for steer_shown in answer.steer["steers"]] == ["sea", "joyful"]
    pieces = [
        chunk.choices[0].steer["watched"]["joyful@2"]
        for chunk in served.client.completions.create(**request, stream=True)
        if "watched" in (getattr(chunk.choices[0], "steer", None) or {})
    ]
    assert [value for piece in pieces for value in piece] == report["watched"]["joyful@2"]
    values = alone.watched["joyful@2"]
    bound = sorted(values)[-3]
    guarded = served.client.completions.create(
        **request | {"extra_body": {"steer": steer, "guard": f"joyful@2>{bound}"}}
    )
    (trip,) = guarded.choices[0].steer["trips"]
    assert trip["token"] == next(i for i, value in enumerate(values) if value > bound)
    assert guarded.usage.completion_tokens == trip["token"]


def test_hugging_face_has_what_other_clients_ask(served: Served) -> None:
    if served.engine == "vllm":
        pytest.skip("vLLM's own server has paths of its own")
    with httpx.Client(
        base_url=served.url.removesuffix("/v1"), headers={"authorization": f"Bearer {KEY}"}
    ) as client:
        text = served.expected(PROMPTS[0], [{"vector": "joyful"}])
        body = {"model": "pocket:joyful", "prompt": PROMPTS[0], "max_tokens": 12, "temperature": 0}
        assert client.post("/v1/completions", json=body).json()["choices"][0]["text"] == text
        assert client.get("/v1/models/pocket:joyful").json()["id"] == "pocket:joyful"
        assert client.get("/v1/models/pocket:nobody").status_code == 404
        ids = client.post("/tokenize", json={"prompt": PROMPTS[0]}).json()["tokens"]
        assert ids == model().encode(PROMPTS[0])
        back = client.post("/detokenize", json={"tokens": ids}).json()["prompt"]
        assert back == model().decode(ids)
        assert "steer_generated_tokens_total" in client.get("/metrics").text
        described = client.get("/openapi.json").json()
        assert "steer" in described["components"]["schemas"]["Chat"]["properties"]
        assert "http" not in client.get("/docs").text
        assert {"/api/chat", "/api/tags", "/tokenizer_info"} <= set(described["paths"])
        about = client.get("/tokenizer_info").json()
        assert about["eos_token"] == model().tokenizer.eos_token
        assert about["chat_template"] == model().tokenizer.chat_template
        options = {"num_predict": 12, "temperature": 0}
        raw = {"model": "pocket:joyful:latest", "prompt": PROMPTS[0], "raw": True}
        response = client.post("/api/generate", json={**raw, "stream": False, "options": options})
        assert response.json()["response"] == text
        for path, body in (("generate", {"options": {"mirostat": 2}}), ("nothing", {})):
            refused = client.post(f"/api/{path}", json=raw | body)
            assert isinstance(refused.json()["error"], str)
        steering = {"watch": "joyful", "guard": "joyful>1e6", "cost": True}
        answer = client.post(
            "/api/generate", json={**raw, "stream": False, "options": options, **steering}
        ).json()["steer"]
        body = {"model": "pocket:joyful", "prompt": PROMPTS[0], "max_tokens": 12, "temperature": 0}
        (choice,) = client.post("/v1/completions", json={**body, **steering}).json()["choices"]
        assert answer == choice["steer"]
        assert {"watched", "cost"} <= set(answer)
        message = {"role": "user", "content": "Tell me a story about the sea."}
        chat = {"model": "pocket", "messages": [message], "options": options}
        lines = [json.loads(line) for line in client.post("/api/chat", json=chat).text.splitlines()]
        (expected,) = generate(
            model(), [model().chat(message["content"])], [], GREEDY, special=False
        )
        assert "".join(line["message"]["content"] for line in lines) == expected.text
        assert [line["done"] for line in lines[-2:]] == [False, True]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"repetition_penalty": 1.1}, "repetition_penalty"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"nonsense": 1}, "nonsense"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"messages": [{"role": "user", "content": "word " * 9000}]}, "messages"),
    ({"messages": [{"role": "tool", "content": "4"}]}, "messages[0].role"),
    ({"messages": [{"role": "king", "content": ""}]}, "messages[0].role"),
    ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs.tokenize"),
    ({"condition": ""}, "condition"),
    ({"strength": 1.5}, "strength"),
]
#: Fields of a message that pocket's chat template leaves out.
LEFT_OUT = {"reasoning_content": "be kind", "tool_calls": [{"id": "a"}]}
TAKEN: list[dict[str, Any]] = [
    {"repetition_penalty": 1.0, "min_p": 0, "presence_penalty": 0},
    {"chat_template_kwargs": {"enable_thinking": False}},
    {"messages": [{"role": "developer", "content": "Be brief."}]},
    {"messages": [{"role": "assistant", "content": "Hi"} | LEFT_OUT]},
    {"continue_final_message": True, "add_generation_prompt": False},
    {"n_predict": 2, "max_tokens": None, "cache_prompt": True},
    {"stop": ["", "x"], "seed": -1, "top_p": 0},
]


def test_a_field_works_or_is_refused_by_its_name(served: Served) -> None:
    if served.engine == "vllm":
        pytest.skip("vLLM reads its requests itself")
    usual = {"model": "pocket", "max_tokens": 2, "messages": [{"role": "user", "content": "Hi"}]}
    with httpx.Client(base_url=served.url, headers={"authorization": f"Bearer {KEY}"}) as client:
        for fields, param in REFUSED:
            answer = client.post("/chat/completions", json=usual | fields)
            assert answer.status_code == 400, fields
            assert answer.json()["error"]["param"] == param
        for fields in TAKEN:
            answer = client.post("/chat/completions", json=usual | fields)
            assert answer.status_code == 200, answer.text


def test_hugging_face_says_what_the_template_leaves_out(served: Served) -> None:
    if served.engine == "vllm":
        pytest.skip("vLLM puts messages into the template itself")
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hi"} | LEFT_OUT,
        {"role": "user", "content": "Why?"},
    ]
    body = {"messages": messages, "max_tokens": 2}
    headers = {"authorization": f"Bearer {KEY}"}
    root = served.url.removesuffix("/v1")
    with httpx.Client(base_url=root, headers=headers) as client:
        answer = client.post("/v1/chat/completions", json=body).json()
        stream = client.post("/v1/chat/completions", json=body | {"stream": True}).text
        counted = client.post("/tokenize", json={"messages": messages}).json()
        plain = client.post("/v1/chat/completions", json=body | {"messages": messages[:1]}).json()
    notes = answer["steer"]["notes"]
    assert {name for name in LEFT_OUT for note in notes if repr(name) in note} == set(LEFT_OUT)
    assert answer["steer"]["steers"] == []
    chunks = [json.loads(line[6:]) for line in stream.split("\n\n") if line.startswith("data: {")]
    assert [chunk["steer"]["notes"] for chunk in chunks if "steer" in chunk] == [notes]
    assert counted["steer"]["notes"] == notes
    assert counted["count"] == answer["usage"]["prompt_tokens"]
    assert "steer" not in plain
