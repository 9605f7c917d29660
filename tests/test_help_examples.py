"""The examples of each help run, in a folder that has what they name and nothing else of ours."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from steer.cli.main import app
from steer.pocket.pairs import story_pairs

#: What only a reader has: a model of theirs, a place, a server, an engine, another tool's file.
ELSEWHERE = re.compile(
    r"MODEL|://|Qwen|my-model|--engine|/mnt|happy\.gguf|_layer_14|direction\.npy|~/team|--pack|\|"
)
#: Commands that take long, or wait for somebody, and which other tests run.
LONG = {
    "chat", "check-server", "compile", "demo", "describe", "discover", "distill", "doctor", "drive",
    "eval", "pack",
    "serve", "suite", "sweep", "ui",
}  # fmt: skip


def examples() -> Iterator[str]:
    """The lines of each help that begin with `steer`, in the order of the help."""
    left: list[Any] = [get_command(app)]
    while left:
        command = left.pop(0)
        left += getattr(command, "commands", {}).values()
        for block in (command.help or "").split("\n\n"):
            lines = re.sub(r"\\\n\s*", "", block).splitlines() if block[:1] == "\b" else []
            yield from (line for line in lines if line.startswith("steer "))


RUN = [
    line
    for line in dict.fromkeys(examples())
    if not ELSEWHERE.search(line) and line.split()[1] not in LONG
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the examples name."""
    path = tmp_path_factory.mktemp("examples")
    pairs = list(story_pairs("mood", "joyful", "gloomy", n=24))
    lines = "".join(json.dumps(pair) + "\n" for pair in pairs)
    texts = "".join(f"{pair['positive'][:60]}\n" for pair in pairs)
    written = {
        "pairs.jsonl": lines,
        "train.jsonl": lines,
        "texts.jsonl": "".join(json.dumps({"text": text}) + "\n" for text in texts.splitlines()),
        "stories.jsonl": "".join(json.dumps({"text": text}) + "\n" for text in texts.splitlines()),
        "prompts.txt": "One day\nThe sea\n",
        "harmful.txt": texts,
        "harmless.txt": "".join(f"{pair['negative'][:60]}\n" for pair in pairs),
        "facts.csv": "claim,label\n" + "".join(f'"It is {n}.",{n % 2}\n' for n in range(12)),
        "captain.toml": 'steers = ["sea:2@2", "formal:1.5@2"]\n[generation]\nmax_tokens = 20\n',
    }
    for name, text in written.items():
        (path / name).write_text(text)
    return path


@pytest.fixture(scope="module")
def done(folder: Path) -> list[tuple[str, Any]]:
    """Each example with how it ended, each after those before it, as somebody would try them."""
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("STEER_VECTORS", "STEER_MODEL"):
            patch.delenv(name, raising=False)
        # What the help makes from others' files, or under another name, is there beforehand.
        prepare = [
            "steer extract pairs.jsonl --positions mean,last --site resid_post,attn_out"
            " --keep acts.safetensors -o warm.safetensors",
            "steer contrasts split pairs.jsonl -o train.jsonl held-out.jsonl --force",
        ]
        # A signature is of the file as it is: what signs goes before what writes it again.
        signing = [line for line in RUN if line.startswith("steer sign") or "--public-key" in line]
        signing.sort(key=lambda line: "--public-key" in line)
        for line in [*prepare, *signing, *(line for line in RUN if line not in signing)]:
            if "--keep" in line and line not in prepare:
                continue
            words = shlex.split(line.partition("  ")[0].partition(" > ")[0], comments=True)
            quick: list[str] = []
            if words[1] == "apply":
                quick = ["--max-tokens", "8", "--temperature", "0", "--allow-idle"]
            if "-o" in words or words[1] in ("convert", "combine"):
                quick += ["--force"]
            results.append((line, CliRunner().invoke(app, [*words[1:], *quick])))
    return results


def test_every_example_that_can_run_here_runs(done: list[tuple[str, Any]]) -> None:
    failed = {
        line: (result.stderr or repr(result.exception))[-300:]
        for line, result in done
        if result.exit_code != 0
    }
    assert not failed


def test_examples_of_most_commands_run(done: list[tuple[str, Any]]) -> None:
    assert {line.split()[1] for line, _ in done} >= {
        "apply", "bake", "combine", "compare", "contrasts", "convert", "extract", "fit", "list",
        "monitor", "recipe", "show", "sign", "verify",
    }  # fmt: skip
