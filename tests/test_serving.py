"""What stands before a server: nothing that is asked of steering is dropped or let through."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import tiny
import uvicorn
from conftest import make_vector
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from test_cli import steer
from test_templates import DATED, NO_SYSTEM, THINKING

import steer as package
from steer.base.errors import SteerError, VectorError
from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource
from steer.serving import limits, requests, vllm_server
from steer.serving.batching import Batcher, Order
from steer.serving.connections import Connection
from steer.serving.errors import RequestError
from steer.serving.library import LARGEST, Library, Steering, for_model, read_library
from steer.serving.limits import MAX_BODY
from steer.serving.messages import render
from steer.serving.middleware import Access, SteeringMiddleware
from steer.serving.responses import ChoiceEnd, Piece
from steer.steering.generation import Row, Sampling
from steer.steering.operation import Coefficient, Operation
from steer.steering.scope import Scope
from steer.steering.steers import Steer
from steer.vectors import store
from steer.vectors.rendering import parse_settings

LIBRARY = Library({"calm": make_vector(), "wild": make_vector(seed=1)})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
FIELDS = st.sampled_from(["vector", "coefficient", "layers", "op", "scope", "schedule", "x"])
VALUES = JSON | st.sampled_from(["calm", "wild", "ablate", "clamp=pos", "response", "2%", [0, 2]])


def steers(request: Any, library: Library = LIBRARY) -> list[Steer]:
    return list(library.steering({"steer": request}).steers)


def test_a_steer_means_what_v_means() -> None:
    calm, wild = LIBRARY.vectors["calm"], LIBRARY.vectors["wild"]
    requests = [
        {"vector": "calm"},
        {"vector": "calm", "coefficient": -2, "layers": [0, 2], "scope": "response"},
        {"vector": "wild", "coefficient": "15%", "layers": "all"},
        {"vector": "wild", "op": "clamp=pos", "layers": [2]},
    ]
    coefficient = Coefficient(1.0)
    assert steers(requests) == [
        Steer(calm, coefficient, (0,)),
        Steer(calm, Coefficient(-2.0), (0, 2), Scope("response")),
        Steer(wild, Coefficient(0.15, "residual"), (0, 2)),
        Steer(wild, coefficient, (2,), op=Operation("clamp", "pos")),
    ]
    assert steers(None) == steers([]) == []
    specs = [LIBRARY.as_request(steer) for steer in steers(requests)]
    assert steers(specs) == steers(requests)


@given(st.lists(st.dictionaries(FIELDS, VALUES, max_size=4), max_size=2) | JSON)
def test_whatever_is_asked_is_steers_or_an_error_of_the_request(request: Any) -> None:
    try:
        parsed_steers = steers(request)
    except RequestError as error:
        assert error.status in (400, 404)
        json.dumps(error.body)
    else:
        assert all(abs(steer.coefficient.value) <= LARGEST for steer in parsed_steers)


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
        answer = {"choices": [{"logprobs": {"top_logprobs": [{"a": value, "b": -1.0}]}}]}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

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
    assert "unsteered answers change" in str(leaking.failure)


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
    request_body = vllm_server.vllm_body({"prompt": "a"}, steering, library)
    assert json.loads(request_body["vllm_xargs"]["steer"])[0]["vector"] == "calm"
    plain = vllm_server.vllm_body({"prompt": "a"}, Steering(), library)
    assert plain == {"prompt": "a"}
    # A client's own salt neither meets that of steers nor parts from itself.
    salts = [request_body["cache_salt"]]
    for salt in (request_body["cache_salt"], request_body["vllm_xargs"]["steer"], "s"):
        for requested in (Steering(), steering):
            body = {"cache_salt": salt, "vllm_xargs": {"kept": 1}}
            again = vllm_server.vllm_body(dict(body), requested, library)
            assert again == vllm_server.vllm_body(dict(body), requested, library)
            assert again["vllm_xargs"]["kept"] == 1
            salts.append(again["cache_salt"])
    assert len(set(salts)) == len(salts)
    for body in (
        {"vllm_xargs": {"steer": request_body["vllm_xargs"]["steer"]}},
        {"vllm_xargs": {"steer": ""}},
        {"vllm_xargs": 3},
        {"cache_salt": 3},
        {"prompt_embeds": "gAN9cQAu"},
        {"use_beam_search": True},
    ):
        with pytest.raises(RequestError):
            vllm_server.vllm_body(body, steering, library)


def test_what_vllm_cannot_do_is_an_error_of_the_request() -> None:
    library = Library({"calm": tiny.vector(tiny.model("llama"), layers=(1,))})
    many = [{"vector": "calm", "op": f"cap={index}"} for index in range(3)]
    for requested in (
        {"steer": [{"vector": "calm", "op": "rotate=20"}]},
        {"steer": many},
        {"steer": "calm", "watch": "calm"},
        {"steer": "calm", "guard": "calm>0.5"},
        {"condition": "You are a pirate."},
        {"prefill": [1]},
        {"cost": True},
    ):
        with pytest.raises(RequestError):
            vllm_server.vllm_body({}, library.steering(requested), library)
    assert vllm_server.shape(library).layers == (1,)
    assert vllm_server.arguments({"a_b": True, "c": False, "d": {"e": 1}, "f": 2}) == [
        "--a-b", "--no-c", "--d", '{"e": 1}', "--f", "2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        (DATED, ("w26", "w26")),
        (NO_SYSTEM, ("w4\n\nw3[assistant]", "w4\n\nw3[assistant]")),
        (THINKING, ("w3[assistant]<think></think>", "w3[assistant]")),
    ],
)
def test_a_chat_is_rendered_as_apply_renders_it(
    template: str,
    parts: tuple[str, str],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded: list[str] = []
    encode = Model.encode

    def listening(model: Model, text: str, *, special: bool = True) -> list[int]:
        encoded.append(text)
        return encode(model, text, special=special)

    monkeypatch.setattr(Model, "encode", listening)
    folder = tiny.save(tmp_path_factory.mktemp("models") / "chat")
    (folder / "chat_template.jinja").write_text(template)
    model = load(ModelSource(str(folder), device="cpu"))
    plain = tiny.vector(model, layers=(1,))
    settings = {"chat": True, "template_args": {"enable_thinking": False}, "date": "2024-07-26"}
    vector = tiny.renamed(plain, read=structs.replace(plain.metadata.read, **settings))
    store.write(Path("v.safetensors"), vector)
    steering = Library({"v": vector}).steering({"steer": "v"})
    messages = [{"role": "system", "content": "w4"}, {"role": "user", "content": "w3"}]
    words = ["apply", "w3", "--chat", "--system", "w4", "-m", folder, "-v", "./v.safetensors"]
    for arguments, part in zip(({}, {"enable_thinking": True}), parts, strict=True):
        typed = ["--template-arg", "enable_thinking=true"] if arguments else []
        applied = steer(*words, *typed, "--max-tokens", "1", "--json")
        assert applied.exit_code == 0, applied.stderr
        body = {"messages": messages, "chat_template_kwargs": arguments}
        text, notes = render(model, requests.read(body, requests.Chat, "chat"), steering)
        assert encoded == [text]
        encoded.clear()
        assert text.endswith(part) or part in text.split()
        assert any("enable_thinking" in note for note in notes)


def test_vllm_gets_the_template_arguments_of_vectors() -> None:
    plain = tiny.vector(tiny.model("llama"), layers=(1,))
    settings = {"chat": True, "template_args": {"a": 1}}
    vector = tiny.renamed(plain, read=structs.replace(plain.metadata.read, **settings))
    library = Library({"calm": vector})
    steering = library.steering({"steer": "calm"})

    def body_of(body: dict[str, Any], typed: list[str]) -> Any:
        template = parse_settings(typed, None)
        handed = vllm_server.vllm_body({"messages": []} | body, steering, library, template)
        return handed.get("chat_template_kwargs")

    assert body_of({}, []) == {"a": 1}
    assert body_of({"chat_template_kwargs": {"a": 2}}, []) == {"a": 2}
    assert body_of({"chat_template_kwargs": {"a": 2}}, ["a=3", "b=4"]) == {"a": 2, "b": 4}
    for wrong in (3, [1], {"tokenize": True}):
        with pytest.raises(RequestError):
            body_of({"chat_template_kwargs": wrong}, [])


def test_a_folder_is_read_once_and_only_what_fits_is_served(tmp_path: Path) -> None:
    model = tiny.model("llama")
    store.write(tmp_path / "mine.safetensors", tiny.vector(model))
    store.write(tmp_path / "other.safetensors", make_vector())
    (tmp_path / "broken.safetensors").write_bytes(b"{}")
    (tmp_path / "a b.safetensors").write_bytes((tmp_path / "mine.safetensors").read_bytes())
    library, notes = read_library(tmp_path)
    assert sorted(library.vectors) == ["mine", "other"]
    assert len(notes) == 2
    fits, more = for_model(library, model.identity)
    assert list(fits.vectors) == ["mine"]
    assert "other is left out" in more[0]
    with pytest.raises(SteerError, match="no folder"):
        read_library(tmp_path / "nowhere")
    with pytest.raises(VectorError, match="no vector"):
        for_model(Library({"other": make_vector()}), model.identity)


def test_nobody_waits_for_a_client_that_has_left() -> None:
    rows = [Row("", 0, [1, 5, 9])]
    order = Order(rows, Steering(), Sampling(max_tokens=100, temperature=0))

    async def run(batcher: Batcher) -> tuple[list[Any], list[Any]]:
        leaving, staying = batcher.order(order), batcher.order(order)
        left = []
        async for event in leaving.stream():
            left.append(event)
            leaving.leave()
        return left, [event async for event in staying.stream()]

    with Batcher(tiny.model("llama"), pytest.fail) as batcher:
        left, stayed = asyncio.run(run(batcher))
    assert len(left) < 100
    assert isinstance(stayed[-1], ChoiceEnd)
    assert sum(isinstance(event, Piece) for event in stayed) > len(left)


def test_a_model_that_is_writing_can_be_stopped() -> None:
    order = Order([Row("", 0, [1, 5, 9])], Steering(), Sampling(max_tokens=10**6, temperature=0))

    async def run(batcher: Batcher) -> None:
        await anext(batcher.order(order).stream())

    with Batcher(tiny.model("llama"), pytest.fail) as batcher, pytest.raises(RuntimeError):
        asyncio.run(run(batcher))
        raise RuntimeError  # leaving is possible at any moment


def test_a_bug_is_logged_and_told_as_one() -> None:
    logged: list[str] = []

    async def run(batcher: Batcher) -> None:
        rows = [Row("", 0, [10**9])]  # no such token
        await anext(batcher.order(Order(rows, Steering(), Sampling(max_tokens=1))).stream())

    with (
        Batcher(tiny.model("llama"), logged.append) as batcher,
        pytest.raises(RequestError) as caught,
    ):
        asyncio.run(run(batcher))
    assert caught.value.status == 500
    assert "Traceback" in logged[0]
    assert "Traceback" not in caught.value.message


def test_pages_of_other_sites_cannot_ask() -> None:
    def status(headers: dict[str, str], method: str = "GET") -> int:
        return ask(behind(), method, "/v1/vectors", headers=headers).status_code

    assert status({}) == 200
    assert status({"host": "127.0.0.1:8000"}) == status({"host": "[::1]:8000"}) == 200
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1"):
        assert status({"host": host}) == 421
    assert status({"origin": "http://evil.example"}) == 403
    assert status({"origin": "null"}) == 403
    assert status({"origin": "http://localhost:1"}) == 403  # another server of this machine
    assert status({"origin": "http://localhost"}) == 200  # its own page
    assert status({"origin": "http://evil.example"}, "OPTIONS") == 403
    asks = {"origin": "http://friend.example"}
    wanted = "authorization, content-type, x-stainless-os"  # as OpenAI's client in a browser
    first = ask(
        behind(),
        "OPTIONS",
        "/v1/vectors",
        headers={**asks, "access-control-request-headers": wanted},
    )
    assert first.headers["access-control-allow-headers"] == wanted
    for method, expected in (("OPTIONS", 204), ("GET", 200)):
        answer = ask(behind(), method, "/v1/vectors", headers=asks)
        assert answer.status_code == expected
        assert answer.headers["access-control-allow-origin"] == asks["origin"]


def test_a_model_can_be_named_after_a_vector() -> None:
    seen: list[Any] = []

    def post(**body: Any) -> int:
        return ask(behind(seen=seen), "POST", "/v1/completions", json=body).status_code

    assert post(model="m:calm") == post(model="m", steer="calm") == 200
    assert seen[0] == seen[1] and seen[0]["model"] == "m" and seen[0]["s"]
    assert post(model="m:calm", steer="wild") == 400
    assert post(model="n:calm") == 200
    assert seen[-1] == {"model": "n:calm", "s": []}  # nothing of this server: it is refused behind


def test_models_are_listed_under_each_vector() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        models_answer = {"object": "list", "data": [{"id": "org/m", "owned_by": "x"}, {"id": "n"}]}
        assert scope["path"] == "/v1/models" and scope["method"] == "GET"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (json.dumps(models_answer)[:9], json.dumps(models_answer)[9:]):
            await send({"type": "http.response.body", "body": part.encode(), "more_body": True})

    library = Library(dict(LIBRARY.vectors))
    front = SteeringMiddleware(app, library, lambda body, *_: body, access=Access("k"))
    models = ask(front, "GET", "/v1/models").json()
    names = [entry["id"] for entry in models["data"]]
    assert names == ["org/m", "org/m:calm", "org/m:wild", "n", "n:calm", "n:wild"]
    for name, model in zip(names, models["data"], strict=True):
        assert ask(front, "GET", f"/v1/models/{name}").json() == model
    assert models["data"][1] == {"id": "org/m:calm", "owned_by": "x"}
    library.leave_out("calm")
    assert ask(front, "GET", "/v1/models/n:calm").status_code == 404
    assert ask(front, "GET", "/v1/models/n:wild").status_code == 200


def test_what_steers_where_a_request_names_nothing() -> None:
    usual = steers("calm:2")
    library = Library(dict(LIBRARY.vectors), defaults=tuple(usual))
    assert steers(None, library) == usual
    assert steers([], library) == []
    assert steers("wild", library) == steers("wild")
    (gated,) = library.steering({"when": "wild>0.5"}).steers
    assert gated.gate is not None and gated.coefficient == Coefficient(2.0)
    steering = library.steering(
        {"watch": ["calm", "wild@2"], "guard": "calm>1", "on_trip": "ablate"}
    )
    assert [watched.layer for watched in steering.watched] == [0, 2]
    assert steering.watched[1].vector is LIBRARY.vectors["wild"]
    assert steering.guards[0].on_trip == "ablate"
    for fields, param in (
        ({"when": "wild"}, "when"),
        ({"steer": [], "when": "wild>1"}, "when"),
        ({"guard": "nobody>1"}, "guard"),
        ({"on_trip": "stop"}, "on_trip"),
        ({"guard": "calm>1", "on_trip": "explode"}, "on_trip"),
        ({"watch": 3}, "watch"),
        ({"steer": {"vector": "calm", "op": "clamp=1@2"}}, "steer"),
        ({"steer": "calm:1001"}, "steer"),
    ):
        with pytest.raises(RequestError) as caught:
            library.steering(fields)
        assert caught.value.param == param


def test_a_vector_that_changes_nothing_is_left_out_by_name() -> None:
    notes: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.startup.complete"})
            return
        body = json.loads((await receive())["body"])
        value = -1.0 * ("calm" in str(body["s"]))
        answer = {"choices": [{"logprobs": {"top_logprobs": [{"a": value}]}}]}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    library = Library({"calm": make_vector(), "idle": tiny.renamed(make_vector(), name="idle")})

    def hand_on(body: dict[str, Any], steering: Steering, _scope: Any) -> dict[str, Any]:
        names = [library.name(steer.vector) for steer in steering.steers]
        return body | {"s": names}

    front = SteeringMiddleware(app, library, hand_on, access=Access(), log=notes.append)
    assert started(front) == ["lifespan.startup.complete"]
    assert list(library.vectors) == ["calm"]
    assert "idle is left out" in notes[0]


def test_what_never_ends_is_interrupted() -> None:
    def loops() -> None:
        while True:
            pass

    async def run() -> int:
        preparing = limits.TimedThreads(1)
        with pytest.raises(RequestError, match="the template takes more than"):
            await preparing.run(loops, "the template", seconds=0.1)
        return await preparing.run(lambda: 7, "the template")  # its thread is free again

    assert asyncio.run(run()) == 7


def test_a_short_request_does_not_wait_for_a_long_one() -> None:
    many = Order([Row("", i, [1, 5, 9]) for i in range(128)], Steering(), Sampling(max_tokens=60))
    order = Order([Row("", 0, [1, 5, 9])], Steering(), Sampling(max_tokens=1))

    async def run(batcher: Batcher) -> tuple[int, int]:
        long = batcher.order(many)
        seen = 0
        async for event in long.stream():
            seen += isinstance(event, Piece)
            if seen == 40:
                break
        long = batcher.order(many)
        events = long.stream()
        await anext(events)
        assert isinstance([event async for event in batcher.order(order).stream()][-1], ChoiceEnd)
        before = long.received.qsize()
        rest = [event async for event in events]
        return before, sum(isinstance(event, ChoiceEnd) for event in rest)

    with Batcher(tiny.model("llama"), pytest.fail) as batcher:
        n_lists, ends = asyncio.run(run(batcher))
    assert ends == 128
    assert n_lists < 100  # of some 240 forwards


def test_texts_of_many_requests_share_their_forwards() -> None:
    model, forwards = tiny.model("llama"), 0
    inner = model.network.forward

    def counted(*args: Any, **keywords: Any) -> Any:
        nonlocal forwards
        forwards += 1
        return inner(*args, **keywords)

    orders = [
        Order([Row("", 0, [1, i])], Steering(), Sampling(max_tokens=30)) for i in range(3, 11)
    ]

    async def run(batcher: Batcher) -> None:
        async def run_order(order: Order) -> None:
            assert [event async for event in batcher.order(order).stream()]

        await asyncio.gather(*map(run_order, orders))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.network, "forward", counted)
        with Batcher(model, pytest.fail) as batcher:
            asyncio.run(run(batcher))
    assert 30 <= forwards < 8 * 30 / 3


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\nGE"])
def test_a_connection_that_sends_too_slowly_is_closed(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.2)
    with listening() as port, socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(sent)
        try:
            while client.recv(1000):
                pass
        except ConnectionResetError:
            pass


def test_too_many_connections_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_CONNECTIONS", 2)
    with listening() as port, ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            for _ in range(3)
        ]
        with suppress(ConnectionResetError):
            assert clients[2].recv(1) == b""
        clients[0].sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert clients[0].recv(12) == b"HTTP/1.1 200"


@contextmanager
def listening() -> Iterator[int]:
    """The port of a server of this process, whose connections are ours."""

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    config = uvicorn.Config(app, http=Connection, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    at = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [at]})
    thread.start()
    try:
        yield at.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        at.close()


@pytest.mark.parametrize("in_loop", [False, True], ids=["script", "notebook"])
def test_python_serves_what_the_command_serves(
    in_loop: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until Ctrl-C, also where an event loop runs already; then the port is free again."""
    monkeypatch.chdir(tmp_path)
    seen: list[package.ServerInfo] = []
    listed: list[str] = []

    def up(served: package.ServerInfo) -> None:
        def look() -> None:
            try:
                answer = httpx.get(f"{served.url}/vectors", timeout=60, trust_env=False)
                listed.extend(vector["id"] for vector in answer.json()["data"])
            finally:
                os.kill(os.getpid(), signal.SIGINT)

        seen.append(served)
        threading.Thread(target=look, daemon=True).start()

    async def cell() -> None:
        package.serve(package.load("pocket"), port=0, steer="joyful:2@2", on_up=up)

    # A process that a shell script starts in the background ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            if in_loop:
                with closing(asyncio.new_event_loop()) as loop:
                    loop.run_until_complete(cell())
            else:
                package.serve(package.load("pocket"), port=0, steer="joyful:2@2", on_up=up)
    finally:
        signal.signal(signal.SIGINT, before)
    [served] = seen
    assert sorted(listed) == list(served.vectors) and "joyful" in listed
    assert len(served.defaults) == 1 and served.to_dict()["page"] == served.page
    port = int(served.page.rstrip("/").rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        pass
