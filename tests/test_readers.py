"""A vector that reads activations is used on texts of the kind that it was read from, at every
front end: guards refuse other texts; gates, watched vectors and the monitor warn."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import tiny
from serving_here import post
from test_cli import failed, steer

import steer as api
from steer.base.errors import UsageError
from steer.generate.chat import Chat
from steer.generate.conversation import Conversation
from steer.library.models import FitWarning
from steer.steering import projection, spec
from steer.steering.generation import Sampling
from steer.steering.named import NamedSteer
from steer.vectors import store
from steer.vectors.provenance import Read

FAULT = "where its values mean something else"
READ = {"chat": Read("mean", chat=True), "plain": Read("mean"), "unknown": Read("unknown")}
GATE = "<1e6/mean"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tiny.save(tmp_path_factory.mktemp("models") / "tiny-chat")
    (path / "chat_template.jinja").write_text(tiny.CHAT_TEMPLATE)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> api.Model:
    return api.load(folder)


@pytest.fixture(autouse=True)
def _vectors(model: api.Model) -> None:
    Path("vectors").mkdir()
    for name, read in READ.items():
        vector = tiny.renamed(tiny.vector(model.inner), name=name, read=read)
        store.write(Path(f"vectors/{name}.safetensors"), vector)
    Path("prompts.txt").write_text("w5 w9\nw7\n")


def expect(message: str, *, refused: bool, name: str, use: str, chat: bool) -> None:
    """A front end says what it should of a vector, and refuses what it should."""
    mismatch = name != "unknown" and (name == "chat") != chat
    assert (FAULT in message) == mismatch, message
    assert refused == (mismatch and use == "guard"), message


each_name = pytest.mark.parametrize("name", READ)
each_kind = pytest.mark.parametrize("chat", [False, True])


@each_name
@each_kind
@pytest.mark.parametrize("use", ["gate", "watch", "guard", "monitor"])
@pytest.mark.parametrize("prompts", [["w5 w9"], ["--prompts", "prompts.txt"]])
def test_commands(folder: Path, name: str, use: str, chat: bool, prompts: list[str]) -> None:
    if use == "monitor":
        texts = ["--texts", *prompts[1:]] if prompts[1:] else prompts
        words = ["monitor", *texts, "-v", f"{name}@1"]
    else:
        options = {
            "gate": ["-v", "unknown:3@1", "--when", f"{name}@1{GATE}"],
            "watch": ["--watch", f"{name}@1"],
            "guard": ["--guard", f"{name}@1>1e6"],
        }
        words = ["apply", *prompts, "--max-tokens", 2, *options[use]]
    result = steer(*words, "-m", folder, *(["--chat"] if chat else []))
    refused = result.exit_code == 2
    if refused:
        failed(result, 2)
    message = " ".join(result.stderr.split())
    expect(message, refused=refused, name=name, use=use, chat=chat)
    assert (("leave --chat out" if chat else "add --chat") in message) == (FAULT in message)


@each_name
def test_evaluations(folder: Path, name: str) -> None:
    rows = [{"positive": f"w{n} w{n + 7}", "negative": f"w{n} w{n + 20}"} for n in range(3, 9)]
    Path("held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["eval", "-m", folder, "-v", "unknown:3@1", "--when", f"{name}@1<1e6/token"]
    result = steer(*words, "--texts", "held.jsonl", "--samples", 4, "--max-tokens", 4)
    assert result.exit_code == 0, result.stderr
    message = " ".join(result.stderr.split())
    expect(message, refused=False, name=name, use="gate", chat=False)


@each_name
@each_kind
@pytest.mark.parametrize("use", ["gate", "watch", "guard", "monitor"])
def test_library(model: api.Model, name: str, use: str, chat: bool) -> None:
    vector, steered = api.read(name), api.read("unknown")
    read = projection.projection(spec.parse_read(f"{name}@1"), vector.data)
    guard = projection.guard(spec.parse_threshold(f"{name}@1>1e6"), vector.data, "stop")
    options: dict[str, Any] = {
        "gate": {"steer": steered(3, layers=1, when=vector.below(1e6, layer=1, pool="mean"))},
        "watch": {"watch": [read]},
        "guard": {"guards": [guard]},
    }
    message, refused = "", False
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if use == "monitor":
                api.monitor(model, ["w5 w9"], vector, layers=1, chat=chat)
            else:
                model.generate("w5 w9", chat=chat, max_tokens=2, **options[use])
        except UsageError as error:
            message, refused = str(error), True
    assert all(warning.category is FitWarning for warning in caught)
    message += " ".join(str(warning.message) for warning in caught)
    expect(message, refused=refused, name=name, use=use, chat=chat)


@each_name
@each_kind
def test_conversations(model: api.Model, name: str, chat: bool) -> None:
    inner = model.inner if chat else tiny.model("llama")
    gated = NamedSteer("unknown:3@1", when=f"{name}@1{GATE}")
    talk = Chat(Conversation(inner), Sampling(2, 0), allow_other_model=True)
    notes = talk.enter("/steer unknown:3@1", print).notes
    assert FAULT not in " ".join(notes)
    begun = Chat(Conversation(inner), Sampling(2, 0), [gated], allow_other_model=True)
    expect(" ".join(begun.warnings), refused=False, name=name, use="gate", chat=chat)


@each_name
@each_kind
def test_library_conversations(model: api.Model, name: str, chat: bool) -> None:
    talk = (model if chat else api.Model(tiny.model("llama"))).chat()
    vector, steered = api.read(name), api.read("unknown")
    gated = steered(3, layers=1, when=vector.below(1e6, layer=1, pool="mean"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):  # once of each
            talk.answer("w5 w9", [gated], Sampling(2, 0), print)
    messages = [str(warning.message) for warning in caught]
    expect(" ".join(messages), refused=False, name=name, use="gate", chat=chat)
    assert len(messages) == len(set(messages))


@each_name
def test_what_is_measured_on_plain_texts(folder: Path, name: str) -> None:
    """A vector that was made in a chat is swept, or a rival in a suite, on plain texts."""
    rows = [{"positive": f"w{n} w{n + 7}", "negative": f"w{n} w{n + 20}"} for n in range(3, 9)]
    Path("held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("plain.txt").write_text("".join(f"w{n} w{n + 2} w{n + 3}\n" for n in range(3, 33)))
    few = ["-m", folder, "--samples", 2, "--max-tokens", 4]
    swept = ["sweep", "-v", name, "--texts", "held.jsonl", "--layers", 1, "--coefficients", "1"]
    rival = f"w9=vectors/{name}.safetensors"
    suite = ["suite", "--condition", "w9", "--texts", "plain.txt", "-v", rival, "--methods", "pca"]
    for words in (swept, suite):
        message = " ".join(steer(*words, *few).stderr.split())
        assert ("made in a chat and is used on plain text: add --chat" in message) == (
            name == "chat"
        )


@each_name
@each_kind
@pytest.mark.parametrize("use", ["gate", "watch", "guard"])
@pytest.mark.parametrize("api_name", ["openai", "ollama"])
def test_requests(model: api.Model, name: str, use: str, chat: bool, api_name: str) -> None:
    vectors = {name: api.read(name).data for name in READ}
    request = {
        "gate": {"steer": "unknown:3@1", "when": f"{name}@1{GATE}"},
        "watch": {"watch": f"{name}@1"},
        "guard": {"guard": f"{name}@1>1e6"},
    }[use]
    body: dict[str, Any] = {"temperature": 0, "max_tokens": 2, "prompt": "w5 w9"}
    path = "/v1/completions"
    if api_name == "ollama":
        path = "/api/generate"
        body = {"prompt": "w5 w9", "raw": not chat, "stream": False}
        body["options"] = {"num_predict": 2, "temperature": 0}
    elif chat:
        path = "/v1/chat/completions"
        del body["prompt"]
        body["messages"] = [{"role": "user", "content": "w5 w9"}]
    answer = post(model.inner, vectors, path, body | request)
    refused = answer.status_code == 400
    text = answer.text
    if refused:
        error = answer.json()["error"]  # a text for Ollama's clients
        assert "guard" in error if api_name == "ollama" else error["param"] == "guard"
    else:
        assert answer.status_code == 200, answer.text
        assert (FAULT in text) == bool(answer.json().get("steer", {}).get("notes"))
    expect(text, refused=refused, name=name, use=use, chat=chat)
