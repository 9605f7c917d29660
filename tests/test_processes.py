"""One command in two processes, over which torchrun and `--tp` spread the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

from steer.base.errors import UsageError
from steer.base.processes import follows
from steer.models.loading import load
from steer.models.source import ModelSource
from steer.vectors import store

PAIRS = [(f"w{n} w9 w{n + 20}", f"w{n} w11 w{n + 5}") for n in range(12, 24)]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "llama")
    lines = [json.dumps({"positive": a, "negative": b}) for a, b in PAIRS]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m")
    alone = (sys.executable, "-m")
    vectors: dict[str, tuple[store.SteeringVector, str]] = {}
    for name, before, after in (("two", torchrun, ("--tp",)), ("one", alone, ())):
        out = tmp_path / f"{name}.safetensors"
        model = ("-m", str(folder), *after)
        extract = run(*before, "steer", "extract", "pairs.jsonl", "-o", str(out), *model)
        assert extract.returncode == 0, extract.stderr
        applied = run(
            *(*before, "steer", "apply", "w12 w9", "-v", f"{out}:3@1", "-t", "0", *model),
            *("--max-tokens", "12"),
        )
        assert applied.returncode == 0, applied.stderr
        vectors[name] = store.read(out), applied.stdout
    (two, steered), (vector_one, expected) = vectors["two"], vectors["one"]
    np.testing.assert_allclose(two.directions, vector_one.directions, atol=1e-5)
    assert (
        two.metadata.model == vector_one.metadata.model == load(ModelSource(str(folder))).identity
    )
    assert steered == expected
    assert not list(tmp_path.glob("*.part*"))


def test_one_without_the_other_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="torchrun and --tp go together"):
        ModelSource(tensor_parallel=True)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(UsageError, match="torchrun and --tp go together"):
        ModelSource()
    with pytest.raises(UsageError, match="chooses the devices itself"):
        ModelSource(tensor_parallel=True, device="cpu")


def test_a_rank_alone_makes_no_follower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")  # a batch system's
    assert not follows()
