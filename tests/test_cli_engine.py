"""What `--engine` and `steer serve` refuse, they refuse before a model is loaded."""

from __future__ import annotations

import socket
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import tiny
from typer.testing import CliRunner

from steer.cli import options
from steer.cli.main import app
from steer.engines import vllm_engine
from steer.vectors import store


@pytest.fixture(autouse=True)
def _nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "load_model", lambda source: pytest.fail("a model was loaded"))


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    folder = tmp_path / "vectors"
    folder.mkdir()
    store.write(folder / "calm.safetensors", tiny.vector(tiny.model("llama"), layers=(1,)))
    return folder


def installed(monkeypatch: pytest.MonkeyPatch, version: str = "0.32.1") -> None:
    def version_of(package: str) -> str:
        if package != "vllm":
            raise metadata.PackageNotFoundError
        return version

    monkeypatch.setattr(vllm_engine, "find_spec", lambda name: object())
    monkeypatch.setattr(vllm_engine.metadata, "version", version_of)


def refused(*arguments: object) -> tuple[int, str]:
    run = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(run.exception, SystemExit), run.exception
    return run.exit_code, run.stderr


def commands(vectors: Path, spec: str = "") -> list[list[Any]]:
    vector = f"{vectors}/calm.safetensors{spec}"
    model = ["-m", vectors.parent / "model"]
    if not model[1].is_dir():
        tiny.save(model[1])
    return [
        ["apply", "One", "-v", vector, *model],
        ["eval", "-v", vector, "--concept", "words:a", *model],
        ["sweep", "-v", vector.split(":")[0], "--condition", "a", *model],
        ["serve", "--vectors", vectors, "--port", 0, *model],
    ]


def test_where_vllm_is_not_or_is_another(monkeypatch: pytest.MonkeyPatch, vectors: Path) -> None:
    for command in commands(vectors):
        monkeypatch.setattr(vllm_engine, "find_spec", lambda name: None)
        status, message = refused(*command, "--engine", "vllm")
        assert status == 1
        assert "not installed" in message
        assert "pip install" in message
        installed(monkeypatch, "0.29.0")
        status, message = refused(*command, "--engine", "vllm")
        assert status == 1
        assert "0.29.0" in message
        assert "pip install" in message
        with monkeypatch.context() as patched:
            patched.setattr(sys, "platform", "darwin")
            status, message = refused(*command, "--engine", "vllm")
        assert status == 1
        assert "Linux" in message


def test_settings_that_mean_nothing(monkeypatch: pytest.MonkeyPatch, vectors: Path) -> None:
    installed(monkeypatch)
    for command in commands(vectors):
        assert refused(*command, "--engine", "sglang")[0] == 2
        assert refused(*command, "--engine-option", "a=1")[0] == 2
        assert refused(*command, "--engine", "vllm", "--engine-option", "a")[0] == 2


def test_what_vllm_cannot_do(monkeypatch: pytest.MonkeyPatch, vectors: Path) -> None:
    installed(monkeypatch)
    for spec in (":rotate=20", ":1/4-9", ":1/decay=3"):
        for command in commands(vectors, spec)[:2]:
            status, message = refused(*command, "--engine", "vllm")
            assert status == 2
            assert "vLLM does not support" in message
    other = tiny.vector(tiny.model("gpt2"), layers=(1,))
    store.write(vectors / "calm.safetensors", other, force=True)
    for command in commands(vectors):
        status, message = refused(*command, "--engine", "vllm")
        assert status == 1
        assert "GPT2LMHeadModel" in message


def test_a_server_without_vectors_or_a_place(vectors: Path, tmp_path: Path) -> None:
    assert "no folder" in refused("serve", "--vectors", tmp_path / "nowhere")[1]
    (tmp_path / "empty").mkdir()
    assert "no vector" in refused("serve", "--vectors", tmp_path / "empty")[1]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, message = refused("serve", "--vectors", vectors, "--port", port)
        assert status == 1
        assert "--port" in message
    assert refused("serve", "--vectors", vectors, "--port", 99999)[0] == 2
