"""Recording, fitting and what looks at vectors, as a user types them, on several families."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from conftest import SHARED, needs_shared
from test_cli import steer

from steer.methods.registry import fit_methods
from steer.vectors import store
from steer.vectors.sites import STREAM_SITES

TINY = ["gpt2", "gemma2", "qwen3"]
REAL = SHARED / "models/babyllama-tok105"
ONES = ["sun", "sea", "dog", "hill", "boat", "tree"]
OTHERS = ["bird", "song", "road", "door", "cake", "ball"]


@pytest.fixture(scope="module", params=[*TINY, "pocket", pytest.param("real", marks=needs_shared)])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "pocket":
        return "pocket"
    if request.param == "real":
        return str(REAL)
    return str(tiny.save(tmp_path_factory.mktemp("models") / request.param, request.param))


def run(*words: object) -> str:
    """What a command that succeeds prints."""
    result = steer(*words)
    assert result.exit_code == 0, result.output + result.stderr
    return result.stdout


def contrasts(model: str) -> str:
    """Pairs of words that the model's tokenizer knows."""
    if Path(model).name in TINY:
        rows = [(f"w{i} w{i + 7} w9", f"w{i} w{i + 20} w9") for i in range(3, 35)]
    else:
        rows = [
            (f"The {name} and the {two} were happy.", f"The {name} and the {two} were sad.")
            for name in ONES
            for two in OTHERS
        ]
    lines = [json.dumps({"positive": p, "negative": n}) for p, n in rows]
    Path("pairs.jsonl").write_text("\n".join(lines))
    return "pairs.jsonl"


def test_every_command_works(model: str) -> None:
    file = contrasts(model)
    checked = json.loads(run("contrasts", "check", file, "-m", model, "--json"))
    assert (checked["kind"], checked["unit"]) == ("pairs", "tokens")
    recorded = ["extract", file, "-m", model, "--name", "a", "-o", "a.safetensors"]
    report = json.loads(run(*recorded, "--keep", "acts.safetensors", "--json"))
    layers = report["layers"]
    assert report["recommended"]["layers"][0] in layers
    assert all(row["separability"] is not None for row in report["statistics"])
    assert "no sweep was run" in report["recommended"]["evidence"]

    for method in fit_methods().names:
        path = f"{method}.safetensors"
        run("fit", "acts.safetensors", "--method", method, "--name", "a", "-o", path)
        assert run("verify", path, "-m", model)
    assert Path("a.safetensors").read_bytes() == Path("mean_diff.safetensors").read_bytes()

    shown = json.loads(run("show", "a.safetensors", "--lens", "-m", model, "--json"))
    assert [row["layer"] for row in shown["lens"]] == layers
    assert all(row["raised"] and row["lowered"] for row in shown["lens"])

    compared = json.loads(run("compare", "a.safetensors", "lda.safetensors", "--json"))
    assert compared["can_be_combined"] is True
    for words in (
        ["a.safetensors", "pca.safetensors"],
        ["a.safetensors", "pca.safetensors:-0.5", "--op", "mean"],
        ["a.safetensors:-1"],
        ["a.safetensors", "--orthogonal-to", "lda.safetensors"],
    ):
        run("combine", *words, "-o", "c.safetensors", "--force")
        assert run("verify", "c.safetensors", "-m", model)
    orthogonal = json.loads(run("compare", "c.safetensors", "lda.safetensors", "--json"))
    assert max(map(abs, orthogonal["cosines"][0]["layers"].values())) < 1e-5

    plain, steered = (
        run("apply", "The w5", "-m", model, "-n", 4, "--max-tokens", 12, *more)
        for more in ([], ["-v", "./a.safetensors:40"])
    )
    assert plain and steered and plain != steered


def test_every_site_is_read_and_fitted(model: str) -> None:
    file = contrasts(model)
    sites = ",".join(name for name in STREAM_SITES if name != "resid_pre")
    words = ["extract", file, "-m", model, "--site", sites, "--positions", "last,mean,-2:"]
    run(*words, "-o", "a.safetensors", "--keep", "acts")
    for site in sites.split(","):
        run("fit", "acts", "--site", site, "--positions", "mean", "-o", "x.safetensors", "--force")
        vector = store.read(Path("x.safetensors"))
        assert vector.metadata.site == site
        assert np.isfinite(vector.directions).all() and vector.directions.any(axis=1).all()
