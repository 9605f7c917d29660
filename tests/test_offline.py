"""`--offline`: whatever a command reads from the hub, it asks the hub nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import hub_server
import pytest

from steer.base import hub
from steer.cli.command import COMMANDS, LOCAL, leaves, load

#: A command for each kind of thing that is read from the hub.
READS = {
    "dataset": ["contrasts", "check", "hf:owner/name"],
    "dataset to split": ["contrasts", "split", "hf:owner/name", "-o", "one.jsonl", "two.jsonl"],
    "vector": ["show", "hf://owner/name/joyful"],
    "vectors": ["compare", "hf://owner/name/joyful", "joyful"],
    "folder": ["list", "hf://owner/name"],
    "pulled": ["pull", "hf://owner/name/joyful"],
    "model": ["apply", "One day", "-m", "owner/name"],
    "tokenizer": ["contrasts", "check", "pairs.jsonl", "-m", "owner/name"],
    "gguf": ["apply", "One day", "-m", "hf://owner/name/small.gguf"],
    "adapter": ["apply", "One day", "-m", "pocket", "--adapter", "owner/name"],
}
#: The libraries are imported first: those that read the environment then do so before the option.
SCRIPT = """
import json, sys
import datasets, huggingface_hub.constants
from typer.testing import CliRunner
from steer.cli.main import app

from steer.models import adapter
# What comes after the download needs peft, which may not be installed.
adapter.merged = lambda _network, name, *, offline: adapter._folder(name, offline=offline)
for line in sys.stdin:
    result = CliRunner().invoke(app, json.loads(line))
    print(json.dumps([result.exit_code, result.stderr]), flush=True)
"""
EVERY = {
    path: command
    for section in COMMANDS.values()
    for name in section
    for path, command in leaves(name, load(name))
}


def contacts_of(folder: Path, *options: str) -> dict[str, tuple[int, int, str]]:
    """For each kind: contacts with the hub, the exit code, and the messages."""
    (folder / "pairs.jsonl").write_text('{"positive": "a b", "negative": "c d"}\n')
    env = os.environ | {"HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    env |= {"PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "0"}
    datasets_found = {}
    with hub_server.served() as place:
        place.repositories["owner/name"] = hub_server.Repository()
        place.repositories["owner/name"].commit({"README.md": b"nothing else"})
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=folder,
            env=env | {"HF_ENDPOINT": place.url},
        )
        with process:
            assert process.stdin is not None and process.stdout is not None
            for kind, words in READS.items():
                before = place.contacts
                process.stdin.write(json.dumps([*words, *options]) + "\n")
                process.stdin.flush()
                code, message = json.loads(process.stdout.readline())
                datasets_found[kind] = (place.contacts - before, code, message)
            process.stdin.close()
    return datasets_found


def test_the_hub_is_asked_nothing(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    for kind, (contacts, code, message) in contacts_of(tmp_path, "--offline").items():
        assert (contacts, code) == (0, 1), (kind, message)
        assert "the hub is not used (--offline" in message, (kind, message)


def test_without_the_option_it_is_asked(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    for kind, (contacts, _, message) in contacts_of(tmp_path).items():
        assert contacts > 0 and "Traceback" not in message, (kind, message)


@pytest.mark.parametrize("path", EVERY)
def test_every_command_has_the_option_unless_it_reads_nothing_there(path: str) -> None:
    options = [name for each in EVERY[path].params for name in each.opts]
    assert options.count("--offline") == (0 if {path, path.split()[0]} & LOCAL else 1)


def test_commands_without_the_option_exist() -> None:
    assert set(EVERY) | {path.split()[0] for path in EVERY} >= LOCAL


@pytest.mark.parametrize("value", ["1", "yes", "0", ""])
def test_the_variable_means_what_it_means_to_the_library(value: str) -> None:
    code = (
        "from steer.base.hub import is_offline_mode as ours; early = ours();"
        "from huggingface_hub import constants as theirs;"
        "print(early, ours(), theirs.is_offline_mode())"
    )
    env = os.environ | {"HF_HUB_OFFLINE": value, "PYTHONPATH": os.pathsep.join(sys.path)}
    env.pop("TRANSFORMERS_OFFLINE", None)
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    assert len(set(run.stdout.split())) == 1


def test_the_modules_that_keep_the_variable_exist() -> None:
    pytest.importorskip("datasets.config")
    pytest.importorskip("huggingface_hub.constants")
    assert all(hasattr(sys.modules[name], "HF_HUB_OFFLINE") for name in hub._KEEPING)
