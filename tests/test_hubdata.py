"""`hf:` contrasts through Hugging Face's own client, from a hub on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hub_server
import pytest
from test_cli import steer

from steer.base.errors import InputError
from steer.contrasts import hubdata

ROWS = [{"question": f"Is it {i}?", "yes": f"It is {i}.", "no": "It is not."} for i in range(12)]
CARD = """---
configs:
- config_name: default
  data_files:
  - {split: train, path: train.jsonl}
  - {split: test, path: test.jsonl}
- config_name: other
  data_files:
  - {split: validation, path: other/validation.jsonl}
---
"""
MAPPING = ["--map", "positive=yes", "--map", "negative=no", "--map", "prompt=question"]
#: What is there, with the number of its rows; and what is not, with what is said of it.
THERE = {"hf:owner/name": 12, "hf:owner/name@test": 3, "hf:owner/name:other": 5}
MISSING = {
    "hf:owner/name@valid": "no split valid",
    "hf:owner/name:third": "third",
    "hf:nobody/nothing": "nobody/nothing",
}
SCRIPT = """
import json, sys
from typer.testing import CliRunner
from steer.cli.main import app

for name in sys.argv[2:]:
    result = CliRunner().invoke(app, ["contrasts", "check", name, *json.loads(sys.argv[1])])
    print(json.dumps([result.exit_code, result.stdout, result.stderr]))
"""


def jsonl(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command says of each of the names."""
    files = {
        "README.md": CARD.encode(),
        "train.jsonl": jsonl(ROWS),
        "test.jsonl": jsonl(ROWS[:3]),
        "other/validation.jsonl": jsonl(ROWS[:5]),
    }
    place = tmp_path_factory.mktemp("hub")
    env = os.environ | {"HF_HOME": str(place), "HF_HUB_OFFLINE": "0"}
    env |= {"PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_DISABLE_TELEMETRY": "1"}
    words = [sys.executable, "-c", SCRIPT, json.dumps([*MAPPING, "--json"]), *THERE, *MISSING]
    with hub_server.served() as hub:
        hub.repositories["owner/name"] = hub_server.Repository()
        hub.repositories["owner/name"].commit(files)
        env |= {"HF_ENDPOINT": hub.url}
        run = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
    assert run.returncode == 0, run.stderr
    return dict(zip([*THERE, *MISSING], map(json.loads, run.stdout.splitlines()), strict=True))


@pytest.mark.parametrize(("name", "n"), THERE.items())
def test_a_dataset_of_the_hub_is_what_its_file_is(
    answers: dict[str, Any], name: str, n: int
) -> None:
    code, printed, message = answers[name]
    assert code == 0, message
    Path("rows.jsonl").write_bytes(jsonl(ROWS[:n]))
    own = steer("contrasts", "check", "rows.jsonl", *MAPPING, "--json")
    assert json.loads(printed) == json.loads(own.stdout)
    assert json.loads(printed)["n_positive"] == n


@pytest.mark.parametrize(("name", "message"), MISSING.items())
def test_what_the_hub_does_not_have_is_said(
    answers: dict[str, Any], name: str, message: str
) -> None:
    code, printed, error = answers[name]
    assert (code, printed) == (1, "")
    assert message in error and "Traceback" not in error


def test_a_hub_that_cannot_be_reached_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: pytest.fail("asked"))
    monkeypatch.setattr(hubdata, "is_offline_mode", lambda: False)
    monkeypatch.setattr(hubdata, "hub_answers", lambda: False)
    with pytest.raises(InputError, match="cannot be reached") as caught:
        list(hubdata.rows("hf:owner/name"))
    assert caught.value.hint is not None and "HF_HUB_OFFLINE" in caught.value.hint
