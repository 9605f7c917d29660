"""The examples of docs/extending.md, installed as a user would have them."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
from test_cli import steer

from steer.base.errors import SteerError
from steer.measures import measures
from steer.models.loading import load
from steer.models.source import ModelSource
from steer.sharing import evidence
from steer.vectors import store

DOCS = Path(__file__).parents[1] / "docs" / "extending.md"


def blocks(title: str) -> dict[str, str]:
    """The code of a section, by its language."""
    section = re.split(r"^## ", DOCS.read_text(), flags=re.MULTILINE)
    [text] = [part for part in section if part.startswith(f"{title}\n")]
    return dict(re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL))


def install(site: Path, name: str, code: str, project: str) -> None:
    """Put a distribution into a folder, as pip does it."""
    (site / f"{name}.py").write_text(code)
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    entries = re.findall(r'entry-points\."([\w.]+)"\]\n((?:\w+ = .*\n)+)', project)
    lines = [f"[{group}]\n{points.replace(chr(34), '')}" for group, points in entries]
    (info / "entry_points.txt").write_text("\n".join(lines))
    importlib.invalidate_caches()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path / "site"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.save(tmp_path / "tiny-llama")


def evaluated(folder: Path, *words: object) -> Any:
    store.write(Path("x.safetensors"), tiny.vector(load(ModelSource(str(folder)))))
    few = ["--condition", "w50", "--samples", 4, "--max-tokens", 6]
    return steer("eval", "-m", folder, "-v", "./x.safetensors:2@1", *few, *words)


def test_a_measure_of_another_package_is_in_the_table_and_in_the_json(
    site: Path, folder: Path
) -> None:
    code = blocks("A measure")
    assert len([line for line in code["python"].splitlines() if line.strip()]) <= 20
    # The tiny model's words have no exclamation marks.
    install(site, "shouting", code["python"].replace('"!"', '"w"'), code["toml"])
    assert list(measures())[-1] == "shouting"
    report = evaluated(folder, "-o", "e.json")
    assert report.exit_code == 0, report.stderr
    assert "shouting: exclamation marks in a written text" in report.stdout
    for row in json.loads(Path("e.json").read_text())["rows"]:
        found = row["shouting"]
        assert found["low"] <= found["value"] <= found["high"]
        assert 0 < found["value"] <= 6  # no more words than tokens
    [card] = evidence.read(Path("e.json")).values()
    assert "shouting" in card.columns


def test_a_measure_that_is_none_or_has_a_taken_name_is_named(site: Path) -> None:
    install(
        site, "wrong", "wrong = 3\n", '[project.entry-points."steer.measures"]\nx = "wrong:wrong"\n'
    )
    with pytest.raises(SteerError, match=r"the measure 'x' of wrong is not a Measure"):
        measures()
    (site / "wrong.py").write_text("import nothing_of_the_kind\n")
    sys.modules.pop("wrong", None)
    importlib.invalidate_caches()
    with pytest.raises(SteerError, match="cannot be loaded: No module named"):
        measures()
    (site / "wrong.py").write_text(
        "from steer.measures import measures\nfrom steer.measures.registry import MEASURES\n"
        "wrong = MEASURES[0]\n"
    )
    sys.modules.pop("wrong", None)
    importlib.invalidate_caches()
    with pytest.raises(SteerError, match="has the name 'preference', which is taken"):
        measures()
