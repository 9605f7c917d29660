"""The page of `steer serve`: what it may load, what it asks the server, and what comes of that.

What a browser does with it is in `test_page_browser.py`.
"""

from __future__ import annotations

import asyncio
import re
import threading
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from serving_here import Here

from steer.base.errors import SteerError
from steer.base.shipped import SHIPPED
from steer.concepts.make import make
from steer.concepts.settings import MakeSettings
from steer.concepts.words import interpret
from steer.extraction import ReadSettings, extract
from steer.fitting.fitting import FitSettings
from steer.generate.apply import generate
from steer.generate.cost import word
from steer.generate.guidance import guidance
from steer.hooks.clock import TokenClock
from steer.hooks.inject import injected
from steer.library.data import contrast_set
from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource
from steer.serving import pages, workshop
from steer.serving.batching import MOST_WORK, Batcher, Between
from steer.serving.errors import RequestError
from steer.serving.library import Library, add_shipped, read_library
from steer.serving.middleware import Access
from steer.serving.sockets import first_free
from steer.steering.generation import Guide, Sampling
from steer.vectors import store
from steer.workers import LocalWorker

ROOT = Path(__file__).parents[1]
PROMPT = "One day Mara woke up."
GREEDY = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0}


@cache
def model() -> Model:
    return load(ModelSource("pocket", device="cpu"))


@cache
def library() -> Library:
    names = ("joyful", "sea", "formal")
    return Library({name: store.read(ROOT / f"vectors/{name}.safetensors") for name in names})


def here(**access: Any) -> Here:
    return Here(model(), library(), Access(**access))


def test_the_page_loads_its_own_files_and_nothing_else() -> None:
    files = pages.page_files()
    assert "/" in files
    for path, (data, kind) in files.items():
        text = data.decode()
        without = text.replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"https?:|\bwss?:|url\(|@import", without), path
        assert not re.search(r"['\"(]//\w", without), path
        addresses = re.findall(r"(?:src|href)=\"([^\"]+)\"", without)
        addresses += [f"/page/{name}" for name in re.findall(r"from \"\./([^\"]+)\"", without)]
        assert all(address in files or address.startswith("#") for address in addresses), path
        if kind.startswith("text/html"):
            assert not re.search(r"\son\w+=|\sstyle=|<script(?![^>]*src=)|<style", text)


def test_nothing_on_the_page_becomes_markup_or_code() -> None:
    sinks = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment"
        r"|DOMParser|\beval\(|new Function|srcdoc|setTimeout\([\"']"
    )
    for path, (data, _) in pages.page_files().items():
        assert not re.search(sinks, data.decode()), path
    policy = pages.PAGE_HEADERS["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"\*|https?:|data:|blob:", policy)


def test_every_file_has_its_policy_and_needs_no_key() -> None:
    with here(api_key="k") as server:
        for path, (data, kind) in pages.page_files().items():
            answer = server.get(path)
            assert answer.content == data
            assert answer.headers["content-type"] == kind
            for name, value in pages.PAGE_HEADERS.items():
                assert answer.headers[name] == value
        assert server.get("/page/state").status_code == 401
        assert server.get("/page/app.py").status_code == 401
        known = {"authorization": "Bearer k"}
        assert server.get("/page/state", headers=known).json()["model"] == "pocket"
        assert server.get("/page/__init__.py", headers=known).status_code == 404
        assert server.get("/page/../app.py", headers=known).status_code == 404


@pytest.mark.parametrize("path", ["/", "/page/app.js", "/page/state"])
def test_the_page_is_not_served_to_strangers(path: str) -> None:
    with here() as server:
        assert server.get(path).status_code == 200
        assert server.get(path, headers={"host": "evil.example"}).status_code == 421
        assert server.get(path, headers={"origin": "http://evil.example"}).status_code == 403
        assert server.post(path, {}).status_code == 405


def test_the_wheel_has_the_files() -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel")
    built = {
        file.distribution_path for file in wheel.WheelBuilder(str(ROOT)).recurse_included_files()
    }
    for path in pages.page_files():
        name = "index.html" if path == "/" else path.removeprefix("/page/")
        assert f"steer/serving/page/{name}" in built


def test_vectors_that_come_with_the_model_are_there_unless_there_are_others(tmp_path: Path) -> None:
    store.write(tmp_path / "joyful.safetensors", library().vectors["sea"])
    loaded, _ = read_library(tmp_path)
    add_shipped(loaded, lambda vector: None)
    assert set(loaded.vectors) == {path.stem for path in store.files(SHIPPED)}
    assert loaded.vectors["joyful"].name == "sea"
    nothing, _ = read_library(tmp_path / "missing", may_be_empty=True)
    assert not nothing.vectors


def test_the_page_knows_what_there_is() -> None:
    with here() as server:
        state = server.get("/page/state").json()
    assert {vector["id"] for vector in state["vectors"]} == set(library().vectors)
    for vector in state["vectors"]:
        metadata = library().vectors[vector["id"]].metadata
        assert vector["recommended"]["layers"] == list(metadata.recommended.layers)
        row = next(row for row in vector["statistics"] if row["layer"] == vector["watch_layer"])
        assert metadata.at(vector["watch_layer"]).positive.mean == row["pos"]  # type: ignore[union-attr]


@pytest.mark.parametrize("chat", [False, True])
def test_token_ids_say_the_text(chat: bool) -> None:
    request = {"return_token_ids": True, "max_tokens": 12, "temperature": 0, "steer": "joyful:2@2"}
    path = "/v1/completions"
    request |= {"prompt": PROMPT, "logprobs": 3}
    if chat:
        path = "/v1/chat/completions"
        del request["prompt"]
        request |= {"messages": [{"role": "user", "content": PROMPT}], "logprobs": True}
        request |= {"top_logprobs": 3}
    with here() as server:
        choice = server.post(path, request).json()["choices"][0]
        pieces = [piece["choices"][0] for piece in server.stream(path, request) if piece["choices"]]
    text = choice["message"]["content"] if chat else choice["text"]
    assert model().decode(choice["token_ids"]) == text
    assert [token_id for piece in pieces for token_id in piece["token_ids"]] == choice["token_ids"]
    if chat:
        content = choice["logprobs"]["content"]
        assert [entry["id"] for entry in content] == choice["token_ids"]
        tops = [entry["top_logprobs"] for entry in content]
    else:
        tops = choice["logprobs"]["top"]
    for taken, top in zip(choice["token_ids"], tops, strict=True):
        assert top[0]["id"] == taken  # greedy
        assert [model().token(entry["id"]) for entry in top] == [entry["token"] for entry in top]


CHAT = {"messages": [{"role": "user", "content": "Tell me a story about the sea."}]}
SEA_AFTER_JOY = {
    "vector": "sea",
    "op": "ablate",
    "layers": [3],
    "when": "joyful@2>0.1/token",
}
#: Requests whose columns the page writes at the same time.
STEERS: list[dict[str, Any]] = [
    {"steer": []},
    {"steer": [{"vector": "joyful", "coefficient": 2, "layers": [2]}]},
    {"steer": [SEA_AFTER_JOY, "formal:2@2"]},
    {"steer": "joyful:3@2", "guard": "joyful@2>1.3", "on_trip": "ablate"},
    {"steer": [], "condition": "[mood: joyful]", "strength": 1.5},
    {"steer": "sea:1@2", "condition": ["[mood: gloomy]", "[topic: sea]"], "strength": [0.5, 2]},
]


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_columns_that_stream_together_are_what_apply_writes(temperature: float) -> None:
    sampling = Sampling(max_tokens=12, temperature=temperature, seed=3)
    request = GREEDY | {"temperature": temperature, "seed": 3, "allow_idle": True}
    read = {"cost": True, "logprobs": 2, "return_token_ids": True}
    with here() as server:
        bodies = [request | read | steer_spec for steer_spec in STEERS]
        answers = [body.json()["choices"][0] for body in server.at_once("/v1/completions", bodies)]
    for fields, answer in zip(STEERS, answers, strict=True):
        steering = library().steering(fields)
        guided = guidance(model(), [PROMPT], steering.guides) if steering.guides else None
        (expected,) = generate(
            model(),
            [PROMPT],
            steering.steers,
            sampling,
            guards=steering.guards,
            guidance=guided,
            allow_idle=True,
        )
        assert answer["text"] == expected.text
        assert model().decode(answer["token_ids"]) == expected.text


def test_a_condition_is_a_system_message_of_a_chat() -> None:
    text, condition = CHAT["messages"][0]["content"], "[mood: joyful]"
    guides = [Guide(condition, 2.0)]
    guided = guidance(model(), [text], guides, chat=True)
    (expected,) = generate(
        model(),
        [model().chat(text)],
        (),
        Sampling(max_tokens=12, temperature=0),
        special=False,
        guidance=guided,
    )
    request = CHAT | {"max_tokens": 12, "temperature": 0, "condition": condition, "strength": 2}
    system = {"messages": [{"role": "system", "content": "Hm."}, *CHAT["messages"]]}
    with here() as server:
        answer = server.post("/v1/chat/completions", request).json()
        assert answer["choices"][0]["message"]["content"] == expected.text
        assert server.post("/v1/chat/completions", request | system).status_code == 400


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"strength": 1}, "strength"),
        ({"condition": "a", "strength": [1, 2]}, "strength"),
        ({"condition": "a", "watch": "joyful"}, "condition"),
        ({"condition": "a", "guard": "joyful>3"}, "condition"),
        ({"condition": "a", "steer": "joyful", "when": "sea>0"}, "condition"),
        ({"condition": "a", "prompt": [1, 2, 3]}, "prompt"),
        ({"condition": "word " * 9000}, "prompt"),
        ({"prefill": [10**6]}, "prefill"),
        ({"prefill": [5] * 12}, "prefill"),
        ({"prefill": [-1]}, "prefill"),
        ({"cost": "much"}, "cost"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(fields: dict[str, Any], param: str) -> None:
    with here() as server:
        answer = server.post("/v1/completions", GREEDY | fields)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param


def test_a_prefill_is_written_as_if_it_had_been_drawn() -> None:
    """With the first tokens of its own text, an answer is the same in all that is told of it."""
    request = GREEDY | {"temperature": 0.8, "seed": 5, "logprobs": 2, "return_token_ids": True}
    request |= {
        "steer": "joyful:2@2/response/decay=4",
        "watch": ["joyful@2", "sea@3"],
        "cost": True,
    }
    with here() as server:
        (choice,) = server.post("/v1/completions", request).json()["choices"]
        again = request | {"prefill": choice["token_ids"][:5]}
        assert server.post("/v1/completions", again).json()["choices"] == [choice]
        other = choice["logprobs"]["top"][5][-1]["id"]
        branch = request | {"prefill": [*choice["token_ids"][:5], other]}
        (branched,) = server.post("/v1/completions", branch).json()["choices"]
        assert branched["token_ids"][:6] == branch["prefill"]
        first, second = (answer["steer"]["watched"]["joyful@2"] for answer in (choice, branched))
        assert first[:6] == second[:6]  # a token's value is read where it was chosen
        assert first[6] != second[6]
        (begun,) = server.post("/v1/completions", GREEDY | {"prefill": " At sea"}).json()["choices"]
        assert begun["text"].startswith(" At sea")


def test_the_cost_of_what_nothing_steers_is_nothing() -> None:
    with here() as server:
        for fields in ({"steer": []}, {"steer": "joyful:0@2", "allow_idle": True}):
            (choice,) = server.post("/v1/completions", GREEDY | fields | {"cost": True}).json()[
                "choices"
            ]
            cost = choice["steer"]["cost"]
            assert cost["kl"] == cost["extra_nats"] == 0
            assert cost["word"] == "coherent"
            assert cost["distinct_2"] is None  # too short a text


def test_the_cost_is_that_of_the_two_distributions() -> None:
    """Against log-probabilities of the whole text, steered and not."""
    request = GREEDY | {"steer": "joyful:3@2", "cost": True, "return_token_ids": True}
    with here() as server:
        (choice,) = server.post("/v1/completions", request).json()["choices"]
    ids = [*model().encode(PROMPT), *choice["token_ids"]]
    steers = library().steering({"steer": "joyful:3@2"}).steers
    n = len(choice["token_ids"])

    def log_probs(steered: bool) -> torch.Tensor:
        clock = TokenClock(len(ids), torch.zeros(1, dtype=torch.int64))
        with torch.no_grad(), injected(model(), steers if steered else (), clock):
            logits = model().network(torch.tensor([ids])).logits[0]
        return logits.double().log_softmax(-1)[-n - 1 : -1]

    own, base = log_probs(True), log_probs(False)
    kl = (own.exp() * (own - base)).sum(-1).mean()
    nats = ((base.exp() - own.exp()) * base).sum(-1).mean()
    cost = choice["steer"]["cost"]
    assert cost["kl"] == pytest.approx(float(kl), rel=1e-3)
    assert cost["extra_nats"] == pytest.approx(float(nats), rel=1e-3)


@pytest.mark.parametrize("fields", [{"steer": []}, {"steer": "joyful:2@2"}])
def test_an_echoed_prompt_has_its_log_probabilities(fields: dict[str, Any]) -> None:
    """As lm-eval's `local-completions` asks for them: with the new token last, be it the end."""
    texts = [PROMPT, "The boat", PROMPT + " She smiled."]
    ids = [model().encode(text) for text in texts]
    request = {"prompt": ids, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
    with here() as server:
        alone = [
            server.post("/v1/completions", request | fields | {"prompt": token_id}).json()
            for token_id in ids
        ]
        choices = server.post("/v1/completions", request | fields).json()["choices"]
        plain = server.post("/v1/completions", request | fields | {"echo": False}).json()["choices"]
    assert choices == [entry["choices"][0] | {"index": i} for i, entry in enumerate(alone)]
    steers = library().steering(fields).steers
    for own, text, choice, without in zip(ids, texts, choices, plain, strict=True):
        clock = TokenClock(len(own), torch.zeros(1, dtype=torch.int64))
        with torch.no_grad(), injected(model(), steers, clock):
            reference = model().network(torch.tensor([own])).logits[0].log_softmax(-1)
        expected = reference[torch.arange(len(own) - 1), own[1:]].tolist()
        log_probs = choice["logprobs"]["token_logprobs"]
        assert log_probs[0] is None
        assert log_probs[1:-1] == pytest.approx(expected, abs=1e-4)
        assert log_probs[-1] == pytest.approx(float(reference[-1].max()), abs=1e-4)
        assert choice["logprobs"]["tokens"][:-1] == [model().token(token_id) for token_id in own]
        tops = choice["logprobs"]["top_logprobs"][1:-1]
        for values, top in zip(reference[:-1].tolist(), tops, strict=True):
            assert max(top.values()) == pytest.approx(max(values), abs=1e-4)
        assert choice["text"] == text + without["text"]


def test_words_are_those_of_the_documented_thresholds() -> None:
    assert [word(nats, None) for nats in (0.0, 0.5, 0.6, 1.1, 1.2)] == [
        *["coherent"] * 2,
        *["strained"] * 2,
        "broken",
    ]
    assert [word(0.0, share) for share in (1.0, 0.75, 0.7, 0.6, 0.5)] == [
        *["coherent"] * 2,
        *["strained"] * 2,
        "broken",
    ]


PAIRS = [
    {"positive": f"{who} {how} the {concept}.", "negative": f"{who} {not_how} the {concept}."}
    for who in ("Mara", "Kofi", "The captain", "My friend")
    for how, not_how in (("loved", "hated"), ("praised", "blamed"), ("enjoyed", "dreaded"))
    for concept in ("boat",)
]


def test_a_vector_is_made_as_extract_makes_it_and_saved(tmp_path: Path) -> None:
    own = Library(dict(library().vectors))
    expected = extract(
        LocalWorker(model()),
        contrast_set(PAIRS),
        ReadSettings(),
        FitSettings(name="liking"),
    ).best.sealed()
    with Here(model(), own, folder=tmp_path / "made") as server:
        events = server.events("/page/vectors", {"name": "liking", "pairs": PAIRS})
        progress = [event["progress"] for event in events if "progress" in event]
        assert progress[0]["done"] == 0
        assert {value["what"]: value["done"] for value in progress} == {
            value["what"]: value["total"] for value in progress
        }
        assert own.vectors["liking"].sha256 == expected.sha256
        assert events[-1]["vector"]["id"] == "liking"
        request = GREEDY | {"steer": "liking:2@2", "watch": "liking"}
        assert server.post("/v1/completions", request).status_code == 200
        assert server.post("/page/save", {"name": "joyful"}).status_code == 400
        saved = server.post("/page/save", {"name": "liking"})
        assert saved.json() == {"file": "made/liking.safetensors"}
        assert server.post("/page/save", {"name": "liking"}).status_code == 400
    assert store.read(tmp_path / "made/liking.safetensors").sha256 == expected.sha256


def test_words_make_the_vector_that_they_make_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few: dict[str, Any] = {"train": 10, "choice": 3, "held_out": 8, "max_tokens": 16}
    few |= {"strengths": (1.0, 2.0)}
    monkeypatch.setattr(workshop, "QUICK", few)
    words = {"word": "joyful", "against": "gloomy"}
    concept = interpret(*words.values(), name="mood").concept
    [expected] = make(model(), [concept], MakeSettings(**few))
    own = Library(dict(library().vectors))
    with Here(model(), own, folder=tmp_path) as server:
        events = server.events("/page/vectors", {"name": "mood"} | words)
    assert events[-1]["report"] == expected.report.to_dict()
    assert own.vectors["mood"].sha256 == expected.vector.sealed().sha256


def test_texts_go_on_while_a_vector_is_made(tmp_path: Path) -> None:
    """Those that are being written neither stop nor change."""
    request = GREEDY | {"max_tokens": 40, "steer": "joyful:2@2"}
    with Here(model(), Library(dict(library().vectors)), folder=tmp_path) as server:
        alone = server.post("/v1/completions", request).json()["choices"]

        async def both() -> tuple[Any, Any]:
            async with server.client() as client:
                response = client.post("/page/vectors", json={"name": "liking", "pairs": PAIRS})
                written = client.post("/v1/completions", json=request)
                return tuple(await asyncio.gather(response, written))

        making, written = asyncio.run(both())
    assert '"vector"' in making.text
    assert written.json()["choices"] == alone


def test_work_that_nobody_waits_for_is_given_up() -> None:
    begun = threading.Event()

    def endless(between: Between) -> None:
        while True:
            begun.set()
            between()

    with Batcher(model(), pytest.fail) as batcher:
        abandoned = batcher.run(endless)
        assert begun.wait(10)
        abandoned.cancel()
        assert batcher.run(lambda between: "done").result(10) == "done"
        begun.clear()
        batcher.run(endless)
        assert begun.wait(10)
        for _ in range(MOST_WORK):
            batcher.run(endless)
        with pytest.raises(RequestError, match="later"):
            batcher.run(endless)
    # The thread has ended, whatever there was to do.


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"name": "joyful"}, "taken"),
        ({"name": "../joyful"}, "bad_name"),
        ({"name": ""}, "bad_request"),
        ({"pairs": PAIRS[:1]}, "bad_request"),
        ({"pairs": [{"positive": "a", "negative": ""}] * 2}, "bad_request"),
        ({"pairs": [PAIRS[0] | {"positive": "x" * 19_000}] * 60}, None),
        ({"folder": "/"}, "bad_request"),
        ({"pairs": None}, None),
        ({"word": "calm"}, None),
        ({"pairs": None, "against": "calm"}, None),
        ({"pairs": None, "word": "calm", "against": "Calm"}, None),
    ],
)
def test_what_makes_no_vector_is_refused(
    change: dict[str, Any], code: str | None, tmp_path: Path
) -> None:
    with Here(model(), Library(dict(library().vectors)), folder=tmp_path) as server:
        answer = server.post("/page/vectors", {"name": "new", "pairs": PAIRS} | change)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == code
        evil = {"origin": "http://evil.example"}
        for path in ("/page/vectors", "/page/save"):
            assert server.post(path, {"name": "new"}, headers=evil).status_code == 403
    assert not list(tmp_path.iterdir())


def test_a_pair_that_says_nothing_is_an_error_in_the_stream(tmp_path: Path) -> None:
    same = [{"positive": "The same.", "negative": "The same."}] * 3
    with Here(model(), Library(dict(library().vectors)), folder=tmp_path) as server:
        answer = server.post("/page/vectors", {"name": "new", "pairs": same})
        assert "error" in answer.text
        assert "new" not in server.get("/page/state").text.split("vectors")[1][:40]


def test_beyond_this_machine_no_vector_is_made() -> None:
    with here(api_key="k", local=False) as server:
        known = {"authorization": "Bearer k"}
        assert "make" not in server.get("/page/state", headers=known).json()["features"]
        for path in ("/page/vectors", "/page/save"):
            body = {"name": "new", "pairs": PAIRS}
            assert server.post(path, body, headers=known).status_code == 404


def test_a_port_that_is_taken_is_passed_over() -> None:
    with first_free("127.0.0.1", [0]) as taken:
        port = taken.getsockname()[1]
        with first_free("127.0.0.1", [port, 0]) as other:
            assert other.getsockname()[1] != port
        with pytest.raises(SteerError, match=str(port)):
            first_free("127.0.0.1", [port])


def test_other_requests_do_not_run_under_the_hooks_of_a_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = load(ModelSource("pocket", device="cpu"))
    turns: list[int] = []

    def work(between: Between) -> tuple[int, int]:
        turns.clear()
        handle = model.network.register_forward_hook(lambda *_: None)
        between()
        under_hooks = len(turns)
        handle.remove()
        between()
        return under_hooks, len(turns)

    with Batcher(model, print) as batcher:
        monkeypatch.setattr(batcher, "_turn", lambda: turns.append(1))
        assert batcher.run(work).result(60) == (0, 1)
