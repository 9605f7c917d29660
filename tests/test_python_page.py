"""The recipes of docs/python.md run as they stand, in their order, in an empty folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def recipes() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_every_recipe_of_the_page_is_run() -> None:
    assert len(recipes()) == 11


def test_the_recipes_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, recipe in enumerate(recipes(), 1):
        exec(compile(recipe, f"recipe {number}", "exec"), names)
        assert capsys.readouterr().out.strip(), f"recipe {number} prints nothing"
    assert names["report"].difference.passed
    assert (tmp_path / "warm-pocket" / "config.json").is_file()
