"""`steer check-server` finds a baked folder steered in vLLM's own server, which knows no vectors.

Runs where vLLM is installed: `make test-vllm`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from steer.cli.main import app

pytest.importorskip("vllm", reason="vLLM is not installed here; `make test-vllm` installs it")

ROOT = Path(__file__).parents[1]
JOYFUL = str(ROOT / "vectors/joyful.safetensors")


def steer(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`vllm serve` of the pocket model with joy in its weights."""
    folder = str(tmp_path_factory.mktemp("made") / "joyful-model")
    baked = steer("bake", "-m", "pocket", "-v", f"{JOYFUL}:2@2", "-o", folder)
    assert baked.exit_code == 0, baked.output
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--model", folder, "--dtype", "float32", "--max-model-len", "128", "--enforce-eager"]
    process = subprocess.Popen(
        [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *words, "--port", str(port)],
        env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"},
    )
    try:
        while True:
            assert process.poll() is None, "vLLM did not start"
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize(
    ("amount", "verdict", "code"), [("2", "steered", 0), ("-2", "other", 1), ("4", "other", 1)]
)
def test_a_check_finds_what_was_baked_in_force(
    url: str, amount: str, verdict: str, code: int
) -> None:
    result = steer("check-server", url, "-m", "pocket", "-v", f"{JOYFUL}:{amount}@2", "--json")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["verdict"]) == (code, verdict)
    if verdict == "steered":
        assert report["nats"]["to_steered"] < 1e-3 < 0.05 < report["nats"]["to_unsteered"]
