"""A vector finds its own model where nobody names one; a wrong one is refused before it loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny
from typer.testing import CliRunner

from steer.cli import options
from steer.cli.main import app
from steer.models import known
from steer.models.loading import load
from steer.models.source import ModelSource
from steer.vectors import store
from steer.vectors.vector import SteeringVector


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.save(tmp_path / "own")


def saved_vector(folder: Path) -> SteeringVector:
    vector = tiny.vector(load(ModelSource(str(folder))))
    store.write(Path("calm.safetensors"), vector)
    return vector


def apply(*words: object) -> tuple[int, str, str]:
    every = ["apply", "w9 w10", "-v", "calm.safetensors", "--max-tokens", "4", *map(str, words)]
    result = CliRunner().invoke(app, every)
    return result.exit_code, result.stdout, result.stderr


def test_a_local_model_is_found_by_its_weights(folder: Path) -> None:
    vector = saved_vector(folder)
    assert known.find(vector.metadata.model.fingerprint) == folder.absolute()
    code, text, notes = apply()
    assert code == 0, notes
    assert (code, text) == apply("-m", folder)[:2]
    assert f"-m {folder}" in notes


def test_a_model_that_is_gone_has_to_be_named(folder: Path) -> None:
    saved_vector(folder)
    moved = Path(shutil.move(folder, folder.with_name("elsewhere")))
    code, _, error = apply()
    assert code == 2 and "was made on own" in error and "-m FOLDER" in error
    assert apply("-m", moved)[0] == 0
    assert apply()[0] == 0  # it is known again


def test_a_model_of_another_shape_is_refused_before_it_loads(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_vector(folder)
    config = json.loads((folder / "config.json").read_text())
    wide = folder.with_name("wide")
    shutil.copytree(folder, wide)
    (wide / "config.json").write_text(json.dumps(config | {"hidden_size": 4096}))
    monkeypatch.setattr(options, "load_model", lambda source: pytest.fail("it was loaded"))
    code, _, error = apply("-m", wide)
    assert code == 1 and "width" in error and "4096" in error
    code, _, error = apply("-m", "pocket")
    assert code == 1 and "width" in error


def test_the_cache_is_no_promise(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = folder.with_name("blocked")
    blocked.write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    vector = saved_vector(folder)  # the model loads all the same
    assert known.find(vector.metadata.model.fingerprint) is None
    assert known.find("../../etc/passwd") is None
