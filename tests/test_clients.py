"""Other programs' clients on `steer serve`: each gets the texts that `generate` writes here.

`make test-clients` installs them; `$STEER_CLIENTS` names Pythons that have them, with `:` between.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import clients
import pytest

from steer.generate.apply import generate
from steer.models.loading import load
from steer.models.source import ModelSource
from steer.steering import spec
from steer.steering.generation import Sampling
from steer.steering.steers import resolve
from steer.vectors import store

ROOT = Path(__file__).parents[1]
PYTHONS = [path for path in os.environ.get("STEER_CLIENTS", "").split(os.pathsep) if path]

pytestmark = pytest.mark.skipif(not PYTHONS, reason="needs other programs: make test-clients")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server of pocket with the vectors of the repository."""
    words = ["serve", "-m", "pocket", "--vectors", str(ROOT / "vectors"), "--port", "0", "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "steer", *words], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        while lines[-1] not in ("}\n", ""):
            lines.append(process.stdout.readline())
        yield json.loads("".join(lines))["url"].removesuffix("/v1")
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    """The texts that are written here, by what a client calls them."""
    model = load(ModelSource())
    steer = resolve(spec.parse("joyful"), store.read(ROOT / "vectors/joyful.safetensors"))
    greedy = Sampling(max_tokens=clients.MOST, temperature=0)
    chat = model.chat(clients.QUESTION)
    prompts = {"plain": clients.TEXT, "bare": clients.TEXT, "chat": chat}
    texts = {}
    for name, prompt in prompts.items():
        steered_name = "steered" if name == "plain" else f"{name}_steered"
        for key, steers in ((name, []), (steered_name, [steer])):
            (written,) = generate(model, [prompt], steers, greedy, special=name == "plain")
            texts[key] = written.text
    return texts | {"streamed": texts["plain"], "chat_streamed": texts["chat"]}


@pytest.mark.parametrize("client", clients.CLIENTS)
def test_a_client_gets_our_texts(client: str, url: str, expected: dict[str, str]) -> None:
    for python in PYTHONS:
        result = subprocess.run(
            [python, clients.__file__, client, url, "pocket", "pocket:joyful"],
            capture_output=True,
            text=True,
            timeout=200,
        )
        if result.returncode == 3:
            continue
        assert not result.returncode, result.stderr[-3000:]
        texts = json.loads(result.stdout.splitlines()[-1])
        assert texts == {name: expected[name] for name in texts}
        assert texts
        return
    pytest.skip(f"no Python of {PYTHONS} has it")
