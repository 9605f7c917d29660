"""`steer compare`, `steer combine` and `steer show --lens`, as a user types them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from conftest import make_vector
from hypothesis import given
from hypothesis import strategies as st
from test_cli import failed, folder, joyful, other, pairs, steer  # noqa: F401  (fixtures)

from steer.cli.tables import length
from steer.vectors import store


@pytest.fixture
def vectors() -> Path:
    place = Path("vectors")
    place.mkdir()
    for seed, name in enumerate(("calm", "warm", "cold")):
        vector = make_vector(layers=(0, 1, 2)[: 3 - seed % 2], seed=seed, name=name)
        store.write(place / f"{name}.safetensors", vector)
    store.write(place / "mlp.safetensors", make_vector(site="mlp_out", name="mlp"))
    return place


def test_compare_says_whether_vectors_can_be_combined(vectors: Path) -> None:
    result = steer("compare", "calm", "warm", "cold")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "calm · warm" in result.stdout
    assert result.stdout.endswith("can be combined, at layers 0-1\n")
    different = steer("compare", "calm", "mlp")
    assert different.exit_code == 0
    assert "cannot be combined: their sites differ" in different.stdout
    printed = json.loads(steer("compare", "calm", "calm", "warm", "--json").stdout)
    assert printed["can_be_combined"] is True
    assert printed["shared_layers"] == [0, 1]
    assert printed["cosines"][0]["layers"]["2"] == pytest.approx(1.0)


def test_combine_writes_a_file_that_the_others_read(vectors: Path) -> None:
    result = steer("combine", "calm", "warm:-50%@1", "--orthogonal-to", "cold", "-o",
                   "vectors/new.safetensors", "--description", "quiet")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["layer", "1"]
    assert "wrote vectors/new.safetensors" in result.stderr
    shown = steer("show", "new").stdout
    assert "sum of calm:1 + warm:-50% (orthogonal to cold)" in shown
    assert "combined; no sweep was run" in shown
    assert "combine of 2" in steer("list").stdout
    assert steer("verify", "new").exit_code == 0
    cosines = json.loads(steer("compare", "new", "cold", "--json").stdout)["cosines"]
    assert abs(cosines[0]["layers"]["1"]) < 1e-6


def test_combine_gives_the_same_bytes_and_one_json_object(vectors: Path) -> None:
    for name in ("a", "b"):
        words = ["calm:2", "warm", "--op", "mean", "-o", f"{name}.safetensors", "--name", "same"]
        printed = json.loads(steer("combine", *words, "--json").stdout)
    assert printed["method"]["combination"]["op"] == "mean"
    assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["combine", "calm", "calm:-1", "-o", "x.safetensors"], 1, "at layer 0: nothing is left"),
        (["combine", "calm", "mlp", "-o", "x.safetensors"], 1, "sites differ"),
        (["combine", "calm@0", "warm@1", "-o", "x.safetensors"], 1, "none in common"),
        (["combine", "calm@9", "-o", "x.safetensors"], 1, "no layer 9"),
        (["combine", "calm:1/prompt", "-o", "x.safetensors"], 2, "leave /prompt out"),
        (["combine", "calm:1/ramp=9", "-o", "x.safetensors"], 2, "leave /ramp=9 out"),
        (["combine", "calm:ablate", "-o", "x.safetensors"], 2, "depends on the activations"),
        (["combine", "calm:x", "-o", "x.safetensors"], 2, "not a number"),
        (["combine", "calm", "--op", "max", "-o", "x.safetensors"], 2, "use sum, mean or span"),
        (["combine", "clam", "-o", "x.safetensors"], 1, "did you mean 'calm'?"),
        (["combine", "calm", "-o", "vectors/warm.safetensors"], 1, "--force"),
        (["combine", "calm", "-o", "x.bin"], 1, "end in .safetensors"),
        (["combine", "calm"], 2, "--out"),
        (["compare", "calm"], 2, "name another"),
        (["compare", "calm", "clam"], 1, "did you mean 'calm'?"),
        (["show", "calm", "--lens", "--top", "0"], 2, "--top"),
    ],
)
def test_commands_that_are_wrong(vectors: Path, words: list[str], code: int, message: str) -> None:
    failed(steer(*words), code, message)
    assert not Path("x.safetensors").exists()


def test_lens_shows_tokens_by_layer(
    joyful: Path,  # noqa: F811
    folder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    result = steer("show", "joyful", "--lens", "--top", 3, "-m", folder)
    assert result.exit_code == 0, result.stderr
    table = result.stdout.splitlines()[-4:]
    assert table[0].split() == ["layer", "raises", "lowers"]
    assert [line.split()[0] for line in table[1:]] == ["0", "1", "2"]
    assert table[1].count("'") == 12  # three quoted tokens at each end, special ones too
    printed = json.loads(steer("show", "joyful", "--lens", "-m", folder, "--json").stdout)
    assert [row["layer"] for row in printed["lens"]] == [0, 1, 2]
    assert len(printed["lens"][0]["raised"]) == 8
    assert "lens" not in json.loads(steer("show", "joyful", "--json").stdout)


def test_words_of_the_lens_stay_whole_on_a_narrow_terminal(
    joyful: Path,  # noqa: F811
    folder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["show", "joyful", "--lens", "--top", 6, "-m", folder]
    cells = re.findall(r"'[^']+' -?\d+\.\d", steer(*words).stdout)
    for width in (60, 80):
        monkeypatch.setenv("COLUMNS", str(width))
        printed = steer(*words).stdout
        assert sorted(re.findall(r"'[^']+' -?\d+\.\d", printed)) == sorted(cells)
        table = printed[printed.rindex("layer ") :].splitlines()
        assert max(map(len, table)) <= width


def test_show_says_what_a_bare_name_does(vectors: Path) -> None:
    """The amount in its unit, as `apply` tells it."""
    vector = make_vector()
    for coefficient, unit, shown_length in (
        (0.317, "residual", "×31.7% @"),
        (2.0, "vector", "×2 @"),
    ):
        best = tiny.msgspec.structs.replace(
            vector.metadata.recommended, coefficient=coefficient, unit=unit
        )
        changed = tiny.msgspec.structs.replace(vector.metadata, recommended=best)
        store.write(Path("x.safetensors"), type(vector)(changed, vector.directions), force=True)
        assert shown_length in steer("show", "x.safetensors").stdout


@given(st.floats(0, 1e9))
def test_a_length_is_told_without_an_exponent_that_it_needs_not(value: float) -> None:
    shown_length = length(value)
    assert float(shown_length.replace(",", "")) == pytest.approx(value, rel=0.006)
    assert "e" not in shown_length or value < 1e-3


def test_lens_through_another_model_is_refused(joyful: Path, other: Path) -> None:  # noqa: F811
    failed(steer("show", "joyful", "--lens", "-m", other), 1, "LlamaForCausalLM")


def test_lens_of_a_low_rank_edit_says_what_it_leaves_out(folder: Path) -> None:  # noqa: F811
    from steer.models.loading import load
    from steer.models.source import ModelSource

    model = load(ModelSource(str(folder)))
    plain = tiny.vector(model)
    metadata = tiny.msgspec.structs.replace(plain.metadata, rank=1)
    down = plain.directions[:, None]
    edit = type(plain)(metadata, plain.directions, down, down.transpose(0, 2, 1))
    store.write(Path("edit.safetensors"), edit)
    result = steer("show", "edit.safetensors", "--lens", "-m", folder)
    assert "only its constant part" in result.stderr


def test_compare_combine_and_show_do_not_import_torch(vectors: Path) -> None:
    code = """
import sys
from typer.testing import CliRunner
from steer.cli.main import app

for words in (
    ["compare", "calm", "warm"],
    ["combine", "calm", "warm", "-o", "x.safetensors"],
    ["show", "x.safetensors"],
):
    assert CliRunner().invoke(app, words).exit_code == 0
sys.exit("torch" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
