"""A load for `steer serve`: many clients at once, under mixed steers, of which some leave and some
send nonsense. Each text has to be what `apply` writes alone.

`tests/benchmarks/serve.py` runs it at length, `test_load.py` in short.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx

from steer.generate.apply import generate
from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource
from steer.serving.library import Library, read_library
from steer.steering.generation import Sampling

ROOT = Path(__file__).parents[1]
PROMPTS = ("One day Mara woke up.", "The boat", "In the evening Kofi", "Once upon a time",
           "The old man went to the sea and", "It rained.")  # fmt: skip
STEERS: tuple[Any, ...] = (
    [],
    "joyful:2@2",
    ["sea", "joyful:-1.5@1,3"],
    "joyful:20%@2/response",
    "sea:ablate@all",
    ["joyful:clamp=pos", "formal:rotate=20"],
    "joyful:2@2/decay=4",
    {"vector": "joyful", "layers": [3], "when": "sea@1>0.1/token"},
)
BAD: tuple[tuple[bytes, str], ...] = (
    (b"", "application/json"),
    (b"{", "application/json"),
    (b"[" * 1000, "application/json"),
    (b'{"prompt": "x"}', "text/plain"),
    (b'{"prompt": "x", "steer": "nobody"}', "application/json"),
    (b'{"prompt": "x", "steer": "joyful:explode"}', "application/json"),
    (b'{"prompt": "x", "max_tokens": 1000000}', "application/json"),
    (b'{"prompt": "x", "nonsense": 1}', "application/json"),
    (json.dumps({"prompt": "word " * 100_000}).encode(), "application/json"),
    (json.dumps({f"f{i}": i for i in range(20_000)}).encode(), "application/json"),
)


@dataclass(frozen=True)
class Case:
    """A request and the text that has to come of it."""

    body: dict[str, Any]
    text: str


@dataclass
class Report:
    """What came of a load. seconds: of each kind of request. memory: bytes of the server, after
    each tenth of the requests."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    wall: float = 0.0


@dataclass(frozen=True)
class Server:
    """A server under load."""

    url: str
    pid: int


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    """`steer serve -m pocket` in a process of its own."""
    command = [sys.executable, "-m", "steer", "serve", "-m", "pocket", "--port", "0", "--json"]
    command += ["--vectors", str(ROOT / "vectors"), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or lines[-1] != "}\n":
        lines.append(process.stdout.readline())
        assert lines[-1], "the server did not start"
    try:
        yield Server(json.loads("".join(lines))["url"], process.pid)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def cases(count: int, *, max_tokens: int = 40, seed: int = 0) -> list[Case]:
    """Requests of all kinds, with what `apply` writes for each."""
    model = load(ModelSource("pocket", device="cpu"))
    library, _ = read_library(ROOT / "vectors")
    chance = Random(seed)
    return [_case(model, library, chance, index, max_tokens) for index in range(count)]


def _case(model: Model, library: Library, chance: Random, index: int, most: int) -> Case:
    steer = STEERS[index % len(STEERS)]
    temperature = chance.choice([0.0, 0.8, 1.2])
    sampling = Sampling(
        max_tokens=chance.randint(1, most), temperature=temperature, seed=chance.randint(0, 99)
    )
    prompt = chance.choice(PROMPTS)
    steers = library.steering({"steer": steer}).steers
    text = next(generate(model, [prompt], steers, sampling)).text
    body = {"prompt": prompt, "steer": steer, "temperature": temperature, "seed": sampling.seed}
    return Case(body | {"max_tokens": sampling.max_tokens}, text)


def load_server(server: Server, known: list[Case], count: int, at_once: int) -> Report:
    """Send `count` requests, so many of them at once."""
    return asyncio.run(_loaded(server, known, count, at_once))


async def _loaded(server: Server, known: list[Case], count: int, at_once: int) -> Report:
    report = Report()
    numbers = iter(range(count))
    limits = httpx.Limits(max_connections=at_once)
    async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=300) as client:

        async def worker() -> None:
            for number in numbers:
                await _one(client, known, number, report)
                if number % max(count // 10, 1) == 0:
                    report.memory.append(_resident(server.pid))

        began = time.monotonic()
        await asyncio.gather(*(worker() for _ in range(at_once)))
        report.wall = time.monotonic() - began
        await asyncio.sleep(1)
        text = (await client.get(server.url.removesuffix("/v1") + "/metrics")).text
        for name in ("steer_texts_running", "steer_texts_waiting"):
            if f"\n{name} 0\n" not in text:
                report.wrong.append(f"{name} is not 0 at the end")
    report.memory.append(_resident(server.pid))
    return report


def _resident(pid: int) -> int:
    """Bytes of a process in memory; 0 where the system does not say."""
    path = Path(f"/proc/{pid}/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.is_file() else 0


async def _one(client: httpx.AsyncClient, known: list[Case], number: int, report: Report) -> None:
    chance = Random(number)
    case = chance.choice(known)
    kind = chance.choices(
        ["whole", "stream", "leaves", "leaves early", "bad"], [45, 25, 10, 10, 10]
    )[0]
    began = time.monotonic()
    if kind == "whole":
        answer = await client.post("/completions", json=case.body)
        text = answer.json()["choices"][0]["text"] if answer.status_code == 200 else answer.text
        _compare(case, text, report)
    elif kind == "stream":
        _compare(case, await _streamed(client, case), report)
    elif kind == "leaves":
        async with client.stream(
            "POST", "/completions", json=case.body | {"stream": True, "max_tokens": 400}
        ) as answer:
            async for _ in answer.aiter_raw():
                break
    elif kind == "leaves early":
        try:
            body = case.body | {"max_tokens": 400, "n": 4}
            await client.post("/completions", json=body, timeout=0.05)
        except httpx.TimeoutException:
            pass
    else:
        content, mime = chance.choice(BAD)
        headers = {"content-type": mime}
        answer = await client.post("/completions", content=content, headers=headers)
        if not 400 <= answer.status_code < 500:
            report.wrong.append(f"{content[:60]!r} got {answer.status_code}")
    report.counts[kind] += 1
    report.seconds.setdefault(kind, []).append(time.monotonic() - began)


async def _streamed(client: httpx.AsyncClient, case: Case) -> str:
    text = ""
    async with client.stream("POST", "/completions", json=case.body | {"stream": True}) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                message = json.loads(line.removeprefix("data: "))
                text += "".join(choice["text"] for choice in message.get("choices", ()))
    return text


def _compare(case: Case, text: str, report: Report) -> None:
    if text != case.text:
        report.wrong.append(f"{case.body}: {text[:80]!r} is not {case.text[:80]!r}")


async def speed(server: Server, count: int, at_once: int, max_tokens: int = 64) -> float:
    """Tokens a second of requests under different steers."""
    async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
        waiting = iter(range(count))
        n_tokens = 0

        async def worker() -> None:
            nonlocal n_tokens
            for number in waiting:
                body = {
                    "prompt": PROMPTS[number % len(PROMPTS)],
                    "steer": STEERS[number % len(STEERS)],
                    "max_tokens": max_tokens,
                    "temperature": 0.8,
                    "seed": number,
                }
                answer = await client.post("/completions", json=body)
                n_tokens += answer.json()["usage"]["completion_tokens"]

        began = time.monotonic()
        await asyncio.gather(*(worker() for _ in range(at_once)))
        return n_tokens / (time.monotonic() - began)
