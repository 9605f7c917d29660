"""The lines of Python that the README shows, on the pocket model and on a real chat model."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
[LINES] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
#: A folder or hub id of a chat model of a few hundred million parameters.
CHAT_MODEL = os.environ.get("STEER_CHAT_MODEL")


def run(lines: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    pytest.importorskip("pandas")
    shutil.copytree(ROOT / "examples", folder / "examples")
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(compile(lines, "README.md", "exec"), names)
    return names


def test_the_lines_run_on_pocket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = run(LINES, tmp_path, monkeypatch)
    assert names["result"].recommended is not None
    assert names["logits"].isfinite().all()
    assert capsys.readouterr().out.strip()


@pytest.mark.skipif(CHAT_MODEL is None, reason="$STEER_CHAT_MODEL names no chat model")
def test_the_lines_run_on_a_chat_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand, but for the model, its pairs and layers, and fewer cells."""
    lines = LINES
    for theirs, ours in {
        '"pocket"': repr(CHAT_MODEL),
        "contrasts/joyful.jsonl": "chat/cheerful.jsonl",
        "layers=2": "layers=14",
        "quick=True": "layers=[14], coefficients=['10%', '20%'], samples=4, max_tokens=8",
        'steer.read("formal")': 'steer.extract(model, "examples/chat/formal.jsonl")',
    }.items():
        assert theirs in lines
        lines = lines.replace(theirs, ours)
    names = run(lines, tmp_path, monkeypatch)
    assert len(names["result"].to_pandas()) == 2
    assert names["logits"].isfinite().all()
