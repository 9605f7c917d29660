"""`steer drive` on engines themselves: `make test-drive`.

vLLM with the plugin vllm-lens runs where both are installed. ik_llama.cpp runs where
STEER_IK_LLAMA names its `llama-server` and STEER_CHAT_GGUF a Llama as a GGUF file. Log-probs are
not compared there, since it calculates with a quantised model otherwise than torch.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from steer import pocket
from steer.cli.main import app

ROOT = Path(__file__).parents[1]
#: Long enough that vLLM keeps what it has read: it keeps whole blocks, of 128 tokens on a CPU.
LONG = "One day Mara woke up. The sea was calm and the boat was near the pier. " * 8


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def drive(url: str, *words: str) -> None:
    driven = run("drive", url, *words)
    assert driven.exit_code == 0, driven.output


def distances(url: str, model: str, spec: str, *words: str) -> tuple[float, float]:
    """How far the server's log-probs are from the steered and from the unsteered model's, in nats
    per token, as `steer check-server` finds them."""
    result = run(
        "check-server", url, "-m", model, "-v", spec, *words, "--json", "--max-tokens", "12"
    )
    assert result.stdout, result.output
    nats = json.loads(result.stdout)["nats"]
    return nats["to_steered"], nats["to_unsteered"]


def text(url: str, **fields: Any) -> str:
    """A greedy completion."""
    name = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
    body = {"model": name, "prompt": LONG, "max_tokens": 24, "temperature": 0} | fields
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=120)
    answer.raise_for_status()
    return str(answer.json()["choices"][0]["text"])


@contextmanager
def served(*command: str) -> Iterator[str]:
    """The address of a server that takes --port, when it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}
    process = subprocess.Popen([*command, "--port", str(port)], env=environment)
    try:
        while True:
            assert process.poll() is None, "the server did not start"
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait()


def test_vllm_with_vllm_lens(tmp_path: Path) -> None:
    if not (importlib.util.find_spec("vllm") and importlib.util.find_spec("vllm_lens")):
        pytest.skip("vllm-lens is not installed here; `make test-drive` installs it")
    joyful = str(ROOT / "vectors/joyful.safetensors")
    engine = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--dtype", "float32"]
    with served(*engine, "--model", str(pocket.path()), "--max-model-len", "256") as url:
        alone = text(url, cache_salt="alone")
        fields = {}
        for amount in ("2", "-2"):
            file = tmp_path / f"{amount}.json"
            drive(url, "-v", f"{joyful}:{amount}@1,3", "--out", str(file))
            fields[amount] = json.loads(file.read_text())
            for layers in ("1,3", "0,2"):
                spec = f"{joyful}:{amount}@{layers}"
                steered, unsteered = distances(url, "pocket", spec, "--fields", str(file))
                assert (steered < 1e-4) == (layers == "1,3")
                assert unsteered > 0.05
        assert distances(url, "pocket", f"{joyful}:2@1,3")[1] < 1e-4
        # One prompt, steered in each way and not: none gets what another has left in the cache.
        texts = [text(url, **fields[amount]) for amount in ("2", "-2", "2")]
        assert text(url) == alone
        assert texts[0] == texts[2]
        assert len({alone, *texts}) == 3


def test_ik_llama_cpp(tmp_path: Path) -> None:
    server, model = os.environ.get("STEER_IK_LLAMA"), os.environ.get("STEER_CHAT_GGUF")
    if not (server and model):
        pytest.skip("STEER_IK_LLAMA or STEER_CHAT_GGUF is not set: see `make test-drive`")
    vector = str(tmp_path / "calm.safetensors")
    pairs = ROOT / "examples/contrasts/joyful.jsonl"
    result = run("extract", str(pairs), "-m", model, "-o", vector, "--layers", "10-14")
    assert result.exit_code == 0, result.output
    with served(server, "-m", model, "-c", "512", "-t", "1") as url:

        def driven(spec: str) -> str:
            drive(url, *(("-v", f"{vector}:{spec}") if spec else ("--clear",)))
            return text(url, prompt="I went outside and", cache_prompt=False)

        alone, first, opposite = map(driven, ("", "2@12", "-2@12"))
        assert len({alone, first, opposite}) == 3
        # What is driven takes the place of what was.
        assert driven("2@12") == first
        assert driven("") == alone
