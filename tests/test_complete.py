"""What the shell offers for a word that was begun, asked as the shell asks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_vector

from steer.cli import complete
from steer.vectors import store


@pytest.fixture(autouse=True)
def vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("vectors").mkdir()
    store.write(Path("vectors/jolly.safetensors"), make_vector())
    store.write(Path("mine.safetensors"), make_vector())
    return tmp_path


def completed(line: str) -> list[str]:
    """As bash does, after TAB at the end of a line."""
    words = line.split(" ")
    settings = {
        "_STEER_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    code = "import sys; sys.argv[0] = 'steer'; from steer.__main__ import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env=os.environ | settings,
    )  # fmt: skip
    return run.stdout.split()


def test_the_shell_gets_names_of_vectors_and_methods() -> None:
    assert completed("steer apply hello -v jo") == ["jolly", "joyful"]
    assert "mean_diff" in completed("steer extract pairs.jsonl --method ")
    assert "--vector" in completed("steer apply --vec")


def test_names_come_from_where_vectors_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert complete.vectors("jo") == ["jolly", "joyful"]
    monkeypatch.setenv("STEER_VECTORS", ".")
    assert "mine" in complete.vectors("") and "mine" in complete.vectors("mi")
    assert complete.vectors("./m") == ["./mine.safetensors"]
    assert "vectors/" in complete.models("vec")
    assert complete.vectors("nowhere/") == []


def test_what_follows_a_name_is_completed() -> None:
    assert complete.vectors("jolly:ab") == ["jolly:ablate"]
    assert complete.VALUES["positions"]("mean,la") == ["mean,last"]
    assert "llama.cpp" in complete.formats("lla")
    assert all(isinstance(each, str) for values in complete.VALUES.values() for each in values(""))
