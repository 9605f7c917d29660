"""What stands before a server: nothing that is asked of steering is dropped or let through."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import tiny
from conftest import make_vector
from hypothesis import given
from hypothesis import strategies as st

from steer.base.errors import SteerError, VectorError
from steer.serving import requests, vllm_server
from steer.serving.batching import Batcher, Order
from steer.serving.errors import RequestError
from steer.serving.library import LARGEST, Library, Steering, fitting, read_library
from steer.serving.limits import MAX_BODY
from steer.serving.middleware import Access, SteeringMiddleware
from steer.serving.responses import End, Piece
from steer.steering.generation import Row, Sampling
from steer.steering.operation import Coefficient, Operation
from steer.steering.scope import Scope
from steer.steering.steers import Steer
from steer.vectors import store

LIBRARY = Library({"calm": make_vector(), "wild": make_vector(seed=1)})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
FIELDS = st.sampled_from(["vector", "coefficient", "layers", "op", "scope", "schedule", "x"])
VALUES = JSON | st.sampled_from(["calm", "wild", "ablate", "clamp=pos", "response", "2%", [0, 2]])


def steers(asked: Any, library: Library = LIBRARY) -> list[Steer]:
    return list(library.steering({"steer": asked}).steers)


def test_a_steer_means_what_v_means() -> None:
    calm, wild = LIBRARY.vectors["calm"], LIBRARY.vectors["wild"]
    asked = [
        {"vector": "calm"},
        {"vector": "calm", "coefficient": -2, "layers": [0, 2], "scope": "response"},
        {"vector": "wild", "coefficient": "15%", "layers": "all"},
        {"vector": "wild", "op": "clamp=pos", "layers": [2]},
    ]
    one = Coefficient(1.0)
    assert steers(asked) == [
        Steer(calm, one, (0,)),
        Steer(calm, Coefficient(-2.0), (0, 2), Scope("response")),
        Steer(wild, Coefficient(0.15, "residual"), (0, 2)),
        Steer(wild, one, (2,), op=Operation("clamp", "pos")),
    ]
    assert steers(None) == steers([]) == []
    told = [LIBRARY.as_asked(steer) for steer in steers(asked)]
    assert steers(told) == steers(asked)


@given(st.lists(st.dictionaries(FIELDS, VALUES, max_size=4), max_size=2) | JSON)
def test_whatever_is_asked_is_steers_or_an_error_of_the_request(asked: Any) -> None:
    try:
        made = steers(asked)
    except RequestError as error:
        assert error.status in (400, 404)
        json.dumps(error.body)
    else:
        assert all(abs(steer.coefficient.value) <= LARGEST for steer in made)


@given(JSON | st.dictionaries(st.sampled_from(["prompt", "messages", "n", "stop"]), JSON))
def test_whatever_is_sent_is_a_request_or_an_error_of_it(body: Any) -> None:
    for kind in (requests.Completion, requests.Chat, requests.Tokenize):
        try:
            requests.read(body if isinstance(body, dict) else {"prompt": body}, kind, "m")
        except RequestError as error:
            assert error.status in (400, 404)


def behind(
    steered: bool = True, seen: list[Any] | None = None, noise: float = 0, left: float = 0
) -> SteeringMiddleware:
    """A server whose answers tell what it was asked for; `steered` off, it does not look.

    noise: what it rounds otherwise each time. left: what each steered answer leaves behind.
    """
    state = {"noise": 0.0, "left": 0.0}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.startup.complete"})
            return
        body = json.loads((await receive())["body"])
        if seen is not None:
            seen.append(body)
        state["noise"] = noise - state["noise"]
        value = state["noise"] + state["left"] - 0.5 * (steered and len(body["s"]))
        state["left"] += left * len(body["s"])
        told = {"choices": [{"logprobs": {"top_logprobs": [{"a": value, "b": -1.0}]}}]}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(told).encode()})

    def hand_on(body: dict[str, Any], steering: Steering, _scope: Any) -> dict[str, Any]:
        return body | {"s": [str(steer) for steer in steering.steers]}

    library = Library(dict(LIBRARY.vectors))
    access = Access("k", origins=("http://friend.example",))
    return SteeringMiddleware(app, library, hand_on, access=access, served="m")


def ask(middleware: SteeringMiddleware, method: str, path: str, **options: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app=middleware)
        headers = {"authorization": "Bearer k"} | options.pop("headers", {})
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, headers=headers, **options)

    return asyncio.run(run())


def started(middleware: SteeringMiddleware) -> list[str]:
    sent: list[str] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(middleware({"type": "lifespan"}, None, send))  # type: ignore[arg-type]
    return sent


def test_a_server_that_does_not_steer_does_not_start() -> None:
    assert started(behind()) == ["lifespan.startup.complete"]
    deaf = behind(steered=False)
    assert started(deaf) == ["lifespan.startup.failed"]
    assert "changes nothing" in str(deaf.failure)
    assert started(behind(noise=0.01)) == ["lifespan.startup.complete"]
    assert started(behind(steered=False, noise=0.01)) == ["lifespan.startup.failed"]
    leaking = behind(left=0.1)
    assert started(leaking) == ["lifespan.startup.failed"]
    assert "otherwise" in str(leaking.failure)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/responses", 404),
        ("POST", "/v1/chat/completions/batch", 404),
        ("POST", "/v1/messages", 404),
        ("POST", "/invocations", 404),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/completions", 405),
        ("GET", "/docs/more", 404),
    ],
)
def test_only_what_is_steered_is_served(method: str, path: str, status: int) -> None:
    seen: list[Any] = []
    answer = ask(behind(seen=seen), method, path, json={"steer": [{"vector": "calm"}]})
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert not seen


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b'{"steer": [{"vector": "calm"}], "steer": []}', 400),
        (b'{"Steer": []}', 400),
        (b'{"extra_body": {}}', 400),
        (b'{"steering_vectors": 1}', 400),
        (b'{"temperature": NaN}', 400),
        (b"[1]", 400),
        (b"\xff", 400),
        (b"[" * 10_000, 400),
        (b"[" * 100_000, 413),
        (json.dumps({f"f{i}": 0 for i in range(200)}).encode(), 413),
        (json.dumps({"f" * 200: 0}).encode(), 413),
        (b" " * (MAX_BODY + 1), 413),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_bodies_that_could_be_read_otherwise_are_refused(content: bytes, status: int) -> None:
    seen: list[Any] = []
    headers = {"content-type": "application/json"}
    answer = ask(behind(seen=seen), "POST", "/v1/completions", content=content, headers=headers)
    assert answer.status_code == status
    assert not seen


@given(st.binary(max_size=40))
def test_bytes_never_break_it(content: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = ask(behind(), "POST", "/v1/completions", content=content, headers=headers)
    assert answer.status_code in (200, 400)


def test_a_key_is_needed_and_json_is_asked_for() -> None:
    for path in ("/v1/models", "/v1/vectors", "/metrics"):
        assert ask(behind(), "GET", path, headers={"authorization": "Bearer j"}).status_code == 401
    assert ask(behind(), "POST", "/v1/completions", content=b"{}").status_code == 415
    answer = ask(behind(), "POST", "/v1/completions", json={"steer": [{"vector": "wild"}]})
    assert answer.status_code == 200
    assert json.loads(answer.headers["x-steer"])[0]["vector"] == "wild"


def test_what_vllm_gets_cannot_be_forged() -> None:
    library = Library({"calm": tiny.vector(tiny.model("llama"), layers=(1,))})
    steering = library.steering({"steer": [{"vector": "calm"}]})
    made = vllm_server.handed_on({"prompt": "a"}, steering, library)
    assert json.loads(made["vllm_xargs"]["steer"])[0]["vector"] == "calm"
    plain = vllm_server.handed_on({"prompt": "a"}, Steering(), library)
    assert plain == {"prompt": "a"}
    # A client's own salt neither meets that of steers nor parts from itself.
    salts = [made["cache_salt"]]
    for salt in (made["cache_salt"], made["vllm_xargs"]["steer"], "s"):
        for asked in (Steering(), steering):
            body = {"cache_salt": salt, "vllm_xargs": {"kept": 1}}
            again = vllm_server.handed_on(dict(body), asked, library)
            assert again == vllm_server.handed_on(dict(body), asked, library)
            assert again["vllm_xargs"]["kept"] == 1
            salts.append(again["cache_salt"])
    assert len(set(salts)) == len(salts)
    for body in (
        {"vllm_xargs": {"steer": made["vllm_xargs"]["steer"]}},
        {"vllm_xargs": {"steer": ""}},
        {"vllm_xargs": 3},
        {"cache_salt": 3},
        {"prompt_embeds": "gAN9cQAu"},
        {"use_beam_search": True},
    ):
        with pytest.raises(RequestError):
            vllm_server.handed_on(body, steering, library)


def test_what_vllm_cannot_do_is_an_error_of_the_request() -> None:
    library = Library({"calm": tiny.vector(tiny.model("llama"), layers=(1,))})
    many = [{"vector": "calm", "op": f"cap={index}"} for index in range(3)]
    for asked in (
        {"steer": [{"vector": "calm", "op": "rotate=20"}]},
        {"steer": many},
        {"steer": "calm", "watch": "calm"},
        {"steer": "calm", "guard": "calm>0.5"},
    ):
        with pytest.raises(RequestError):
            vllm_server.handed_on({}, library.steering(asked), library)
    assert vllm_server.shape(library).layers == (1,)
    assert vllm_server.arguments({"a_b": True, "c": False, "d": {"e": 1}, "f": 2}) == [
        "--a-b", "--no-c", "--d", '{"e": 1}', "--f", "2",
    ]  # fmt: skip


def test_a_folder_is_read_once_and_only_what_fits_is_served(tmp_path: Path) -> None:
    model = tiny.model("llama")
    store.write(tmp_path / "mine.safetensors", tiny.vector(model))
    store.write(tmp_path / "other.safetensors", make_vector())
    (tmp_path / "broken.safetensors").write_bytes(b"{}")
    (tmp_path / "a b.safetensors").write_bytes((tmp_path / "mine.safetensors").read_bytes())
    library, notes = read_library(tmp_path)
    assert sorted(library.vectors) == ["mine", "other"]
    assert len(notes) == 2
    fits, more = fitting(library, model.identity)
    assert list(fits.vectors) == ["mine"]
    assert "other is left out" in more[0]
    with pytest.raises(SteerError, match="no folder"):
        read_library(tmp_path / "nowhere")
    with pytest.raises(VectorError, match="no vector"):
        fitting(Library({"other": make_vector()}), model.identity)


def test_nobody_waits_for_a_client_that_has_left() -> None:
    rows = [Row("", 0, [1, 5, 9])]
    order = Order(rows, Steering(), Sampling(max_tokens=100, temperature=0))

    async def run(batcher: Batcher) -> tuple[list[Any], list[Any]]:
        leaving, staying = batcher.order(order), batcher.order(order)
        left = []
        async for event in leaving.told():
            left.append(event)
            leaving.leave()
        return left, [event async for event in staying.told()]

    with Batcher(tiny.model("llama"), pytest.fail) as batcher:
        left, stayed = asyncio.run(run(batcher))
    assert len(left) < 100
    assert isinstance(stayed[-1], End)
    assert sum(isinstance(event, Piece) for event in stayed) > len(left)


def test_a_model_that_is_writing_can_be_stopped() -> None:
    order = Order([Row("", 0, [1, 5, 9])], Steering(), Sampling(max_tokens=10**6, temperature=0))

    async def run(batcher: Batcher) -> None:
        await anext(batcher.order(order).told())

    with Batcher(tiny.model("llama"), pytest.fail) as batcher, pytest.raises(RuntimeError):
        asyncio.run(run(batcher))
        raise RuntimeError  # leaving is possible at any moment


def test_a_bug_is_logged_and_told_as_one() -> None:
    logged: list[str] = []

    async def run(batcher: Batcher) -> None:
        rows = [Row("", 0, [10**9])]  # no such token
        await anext(batcher.order(Order(rows, Steering(), Sampling(max_tokens=1))).told())

    with (
        Batcher(tiny.model("llama"), logged.append) as batcher,
        pytest.raises(RequestError) as caught,
    ):
        asyncio.run(run(batcher))
    assert caught.value.status == 500
    assert "Traceback" in logged[0]
    assert "Traceback" not in caught.value.message
