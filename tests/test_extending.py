"""The examples of docs/extending.md, installed as a user would have them."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from test_cli import steer

import steer as library
from steer.base.errors import SteerError
from steer.formats.registry import registry
from steer.measures import measures
from steer.methods.registry import methods
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


def forget() -> None:
    """Look for the extensions of other packages again."""
    for known in (methods, registry):
        known.cache_clear()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages."""
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    forget()
    yield tmp_path / "site"
    forget()
    for name in [name for name in sys.modules if name.startswith("plugin_")]:
        del sys.modules[name]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.save(tmp_path / "tiny-llama")


def test_a_method_of_another_package_is_used_and_recorded(site: Path, folder: Path) -> None:
    code = blocks("A method")
    assert len([line for line in code["python"].splitlines() if line.strip()]) <= 20
    install(site, "plugin_trimmed", code["python"], code["toml"])
    assert "trimmed" in steer("extract", "--help").stdout
    pairs = [{"positive": f"w5 w{n} w7", "negative": f"w6 w{n} w7"} for n in range(10, 34)]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    first, second = code["sh"].splitlines()
    result = steer(*shlex.split(first)[1:], "-m", folder)
    assert result.exit_code == 0, result.stderr
    assert "trimmed:share=0.2 of 24 pairs, by the package plugin_trimmed" in (
        steer(*shlex.split(second)[1:]).stdout
    )
    names = {"steer": library, "model": library.load(str(folder)), "pairs": pairs}
    exec(code["pycon"].replace(">>> ", ""), names)
    read = store.read(Path("warm.safetensors"))
    assert read.metadata.method.options == {"share": 0.2}
    np.testing.assert_array_equal(names["warm"].numpy(), read.directions)
    # Nothing left out is the mean difference.
    whole = ("extract", "pairs.jsonl", "-m", folder, "-o", "a.safetensors", "--method")
    assert steer(*whole, "trimmed:share=0").exit_code == 0
    assert steer(*whole, "mean_diff", "--force").exit_code == 0
    wrong = steer(*whole, "trimmed:share=0.7", "--force")
    assert wrong.exit_code == 2 and "at most 0.4" in wrong.stderr
    # The file needs no plugin.
    (site / "plugin_trimmed-1.0.dist-info" / "entry_points.txt").unlink()
    forget()
    used = steer("apply", "w4", "-m", folder, "-v", "./warm.safetensors:2@1", "--max-tokens", 2)
    assert used.exit_code == 0, used.stderr
    gone = steer(*whole, "trimmed", "--force")
    assert gone.exit_code == 2 and "'trimmed' is not a method" in gone.stderr


def test_a_method_that_fails_or_cannot_be_loaded_is_named(site: Path, folder: Path) -> None:
    project = '[project.entry-points."steer.methods"]\nzero = "plugin_zero:METHOD"\n'
    code = (
        "from steer.methods import FitMethod\n"
        "METHOD = FitMethod(name='zero', help='x', compute=lambda p, n: 1 / 0)\n"
    )
    install(site, "plugin_zero", code, project)
    Path("pairs.jsonl").write_text('{"positive": "w5", "negative": "w6"}\n')
    words = ("extract", "pairs.jsonl", "-m", folder, "-o", "a.safetensors", "--method", "zero")
    failed = steer(*words)
    assert failed.exit_code == 1
    assert "the method zero of the package plugin_zero failed" in failed.stderr
    (site / "plugin_zero.py").write_text("import nothing_of_the_kind\n")
    sys.modules.pop("plugin_zero")
    forget()
    failed = steer(*words)
    assert failed.exit_code == 2 and "plugin_zero" in failed.stderr
    assert "No module named 'nothing_of_the_kind'" in failed.stderr


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
    with pytest.raises(SteerError, match="is called 'preference', as another one"):
        measures()
