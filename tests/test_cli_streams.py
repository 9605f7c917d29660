"""The streams as a shell gives them: closed, full, cut off, or of another encoding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_vector

from steer.vectors import store


@pytest.fixture(autouse=True)
def vectors() -> None:
    Path("vectors").mkdir()
    store.write(Path("vectors/calm.safetensors"), make_vector(name="ruhig \u2013 \U0001f30a"))


def in_shell(words: str, encoding: str = "utf-8") -> subprocess.CompletedProcess[str]:
    """A command line with its redirections."""
    return subprocess.run(
        f"{sys.executable} -m steer {words}", shell=True, capture_output=True, encoding=encoding,
        check=False, env={**os.environ, "PYTHONIOENCODING": encoding},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("apply <&-", 1, "stdin is empty"),
        ("contrasts check - <&-", 1, "stdin is empty"),
        ("list >&-", 0, ""),
        ("list --json >&-", 0, ""),
        ("list 2>&-", 0, ""),
        ("show nothing 2>&-", 1, ""),
        ("list > /dev/full", 1, "error: stdout: No space left"),
        ("show calm --json > /dev/full", 1, "error: stdout: No space left"),
        ("compare calm calm | true", 0, ""),
    ],
)
def test_a_stream_that_is_closed_or_full_is_no_bug(words: str, code: int, said: str) -> None:
    run = in_shell(words)
    assert run.returncode == code, run.stderr
    assert run.stderr.startswith("error: ") if said else not run.stderr
    assert said in run.stderr
    assert run.stderr.count("\n") <= 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_what_an_encoding_lacks_is_escaped(encoding: str) -> None:
    assert in_shell("compare calm calm", encoding).returncode == 0
    shown = in_shell("show calm", encoding)
    assert shown.returncode == 0
    assert ("\u2013" in shown.stdout) == (encoding in ("utf-8", "cp1252"))
    (told,) = json.loads(in_shell("list --json", encoding).stdout)["vectors"]
    assert told["name"] == "ruhig \u2013 \U0001f30a"
