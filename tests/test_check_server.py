"""`steer check-server` against real servers on this machine: steered, unsteered, broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from answering import answering
from typer.testing import CliRunner

from steer.baking.bake import bake
from steer.base.errors import SteerError
from steer.cli.main import app
from steer.engines.endpoint import Endpoint
from steer.engines.server_check import AnswerComparison, PromptComparison, _agreement
from steer.generate.apply import continue_ids
from steer.models.checkpoint import save
from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource
from steer.steering.generation import Sampling
from steer.steering.operation import Coefficient
from steer.steering.steers import Steer
from steer.vectors import store

ROOT = Path(__file__).parents[1]
Reply = Callable[[str, dict[str, Any]], tuple[int, bytes]]


@pytest.fixture(autouse=True)
def _vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the repository; and the model is loaded once, for all tests but one."""
    monkeypatch.setenv("STEER_VECTORS", str(ROOT / "vectors"))
    monkeypatch.setattr("steer.cli.options.load_model", lambda source: pocket())


def served(reply: Reply) -> AbstractContextManager[str]:
    """The address of a server that answers so."""
    return answering(lambda method, path, body: reply(path, body or {}))


@cache
def pocket() -> Model:
    return load(ModelSource())


@cache
def baked(coefficient: float) -> Model:
    """The pocket model with joy in its weights, loaded from its folder without any hook."""
    if not coefficient:
        return pocket()
    vector = store.read(ROOT / "vectors/joyful.safetensors")
    steer = Steer(vector, Coefficient(coefficient), (2,))
    baked = bake(pocket(), [steer], dtype=torch.float32)
    with TemporaryDirectory() as folder:
        save(Path(folder), baked.network, pocket().tokenizer, ModelSource(), max_shard_size="5GB")
        return load(ModelSource(folder))


def serving(model: Model, *, log_probs: bool = True, refuses: bool = False) -> Reply:
    """Greedy text of a model, as an engine gives it."""

    def reply(path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        if path == "/v1/models":
            return 200, json.dumps({"data": [{"id": "made"}]}).encode()
        if refuses and "logprobs" in body:
            return 400, b'{"error": {"message": "logprobs are not supported"}}'
        chat = path == "/v1/chat/completions"
        text = model.chat(body["messages"][0]["content"]) if chat else body["prompt"]
        ids = model.encode(text, special=not chat)
        sampling = Sampling(max_tokens=body["max_tokens"], temperature=body["temperature"])
        (new,) = continue_ids(model, [(ids, 0)], [], sampling)
        with torch.no_grad():
            scores = model.network(torch.tensor([ids + new])).logits[0].log_softmax(-1)
        values = [float(scores[len(ids) - 1 + i, token]) for i, token in enumerate(new)]
        written = model.decode(new)
        choice: dict[str, Any] = {"text": written, "logprobs": {"token_logprobs": values}}
        if chat:
            content = {"content": [{"token": "", "logprob": value} for value in values]}
            choice = {"message": {"content": written}, "logprobs": content}
        if not log_probs:
            choice["logprobs"] = None
        return 200, json.dumps({"choices": [choice]}).encode()

    return reply


def check(url: str, *words: str) -> Any:
    return CliRunner().invoke(app, ["check-server", url, "-v", "joyful:2@2", *words])


@pytest.mark.parametrize("chat", [False, True], ids=["text", "chat"])
@pytest.mark.parametrize(
    ("coefficient", "verdict", "code"),
    [(2.0, "steered", 0), (0.0, "unsteered", 1), (-1.0, "neither", 1)],
)
def test_the_verdict_is_what_the_server_does(
    coefficient: float, verdict: str, code: int, chat: bool
) -> None:
    model = baked(coefficient)
    prompts = ["Tell me a story about Mara.", "How do I bake bread?", "Tell me a story."]
    words = ["--chat", *(word for text in prompts for word in ("--prompt", text))] if chat else []
    reticent: list[dict[str, bool]] = [] if chat else [{"log_probs": False}]
    if coefficient == 2.0 and not chat:
        reticent.append({"refuses": True})
    for options in [{}, *reticent]:
        with served(serving(model, **options)) as url:
            result = check(url, *words, "--json")
        assert result.exit_code == code, result.output
        report = json.loads(result.stdout)
        assert (report["verdict"], report["served"]) == (verdict, "made")
        if options:
            assert report["nats"] is None or options.get("refuses")
        elif coefficient != -1.0:
            near, far = sorted((report["nats"]["to_steered"], report["nats"]["to_unsteered"]))
            assert near < 1e-3 < 0.05 < far


@pytest.mark.parametrize("times", [0.5, 0.9, 1.5, -1.0])
def test_another_strength_is_told_from_the_one_asked_for(times: float) -> None:
    with served(serving(baked(2 * times))) as url:
        result = check(url, *(["--json"] if times != 0.9 else []))
    assert result.exit_code == 1
    if times == 0.9:
        assert "another strength" in result.stdout and "about 0.9 times" in result.stdout
    else:
        report = json.loads(result.stdout)
        assert (report["verdict"], report["multiple"]) == ("other", times)


def test_it_says_so_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steer.cli.options.load_model", load)
    with served(serving(pocket(), log_probs=False)) as url:
        result = check(url + "/v1/", "--prompt", "One day")
    assert result.exit_code == 1
    assert "is not steered" in result.stdout and "texts decide" in result.stderr
    assert result.stdout.count("unsteered") >= 2


def broken(status: int, data: bytes) -> Reply:
    def reply(path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        if path == "/v1/models":
            return 200, b'{"data": [{"id": "made"}]}'
        return status, data

    return reply


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (500, b"out of memory\x1b[2J"),
        (404, b'{"error": {"message": "no such path"}}'),
        (401, b'{"detail": "who are you?"}'),
        (400, b'{"error": "no"}'),
        (200, b"<html>hello</html>"),
        (200, b"[1, 2]"),
        (200, b'{"choices": []}'),
        (200, b'{"choices": [{"text": 5}]}'),
        (200, b'{"choices": ["text"]}'),
        (200, b"[" * 100_000),
    ],
)
def test_a_broken_server_is_an_error_in_a_line(status: int, data: bytes) -> None:
    with served(broken(status, data)) as url:
        result = check(url)
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr.startswith("error: ") and "\x1b" not in result.stderr


@pytest.mark.parametrize("data", [b"{}", b'{"data": []}', b'{"data": [5]}', b"\xff\xfe"])
def test_a_server_without_models_is_an_error(data: bytes) -> None:
    with served(lambda path, body: (200, data)) as url:
        result = check(url)
    assert result.exit_code == 1 and result.stderr.startswith("error: ")


def test_what_is_no_server_is_found_before_the_model_loads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("steer.cli.options.load_model", lambda source: pytest.fail("it loaded"))
    with served(broken(200, b"")) as url:
        gone = url
    assert check(gone).exit_code == 1
    assert check("localhost:8000").exit_code == 2
    assert CliRunner().invoke(app, ["check-server", gone]).exit_code == 2


def test_an_endless_answer_is_cut_off() -> None:
    with (
        served(lambda path, body: (200, b" " * 11_000_000)) as url,
        Endpoint(url) as endpoint,
        pytest.raises(SteerError, match="more than"),
    ):
        endpoint.models()


@pytest.mark.parametrize(
    "log_probs",
    [
        "nonsense",
        [None],
        {"token_logprobs": [None, 1]},
        {"content": [1]},
        {"content": [{"logprob": "x"}]},
    ],
)
def test_log_probs_that_are_none_are_left_out(log_probs: object) -> None:
    answer = json.dumps({"choices": [{"text": "a", "logprobs": log_probs}]}).encode()
    with served(broken(200, answer)) as url, Endpoint(url) as endpoint:
        assert endpoint.complete("a", served="made", max_tokens=1).log_probs is None


@pytest.mark.parametrize(
    ("text", "agrees"),
    [
        (" happy days", "steered"),
        ("happy but otherwise", "steered"),
        ("happ!", "neither"),
        ("hapless", "unsteered"),
        ("hazy", "neither"),
        ("hap", "neither"),
        ("", "neither"),
    ],
)
def test_texts_agree_up_to_where_the_two_part(text: str, agrees: str) -> None:
    assert _agreement(text, " happy days", " hapless days") == agrees
    assert _agreement(text, "same", " same") is None


def test_a_text_that_ends_early_is_told_from_one_that_goes_on() -> None:
    assert _agreement("one", "one", "one two") == "steered"
    assert _agreement("one two", "one", "one two") == "unsteered"


def row(agrees: Any, *distances: Any) -> PromptComparison:
    return PromptComparison("p", "s", "u", "t", agrees, *distances)


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([row("steered")] * 3 + [row("neither")], "steered"),
        ([row("steered")] * 2 + [row("unsteered")] * 2, "neither"),
        ([row(None)] * 3 + [row("unsteered")], "unsteered"),
        ([row(None)] * 4, "unclear"),
        ([row("unsteered", 0.01, 1.0, 1.0)], "steered"),  # log-probs go before texts
        ([row("steered", 0.5, 0.5, 1.0)], "neither"),
        ([row("steered", 0.0, 0.001, 0.001)], "steered"),  # too faint for log-probs
        ([row(None, 0.0, 0.001, 0.001)], "unclear"),
        ([row("steered", 0.02, 1.0, 1.0, (0.021,) * 10)], "steered"),  # rounding, no multiple
        ([row("steered", 0.1, 1.0, 1.0, (*(1.0,) * 4, 0.01, *(1.0,) * 5))], "other"),
        ([row("neither", 1.0, 1.0, 1.0, (*(2.0,) * 4, 0.6, *(2.0,) * 5))], "neither"),
    ],
)
def test_what_prompts_come_to(rows: list[PromptComparison], verdict: str) -> None:
    assert AnswerComparison(rows).verdict == verdict
