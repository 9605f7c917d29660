"""A real Ray cluster of a head and two nodes on this machine. `make test-ray` runs this."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from recorded import pairs

from steer.base.errors import InputError, SteerError
from steer.extraction import Plan, ReadSettings, plan, record_contrasts
from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource
from steer.workers import LocalWorker, once

pytest.importorskip("ray", reason="Ray is not installed: make test-ray")

from ray.cluster_utils import Cluster

from steer.engines.ray_workers import on_cluster

pytestmark = pytest.mark.filterwarnings("ignore")


def drawn(n: int) -> list[tuple[str, str]]:
    rng = random.Random(0)
    words = [f"w{number}" for number in range(3, 60)]
    return [
        (" ".join(rng.choices(words, k=24)), " ".join(rng.choices(words, k=24))) for _ in range(n)
    ]


PAIRS = drawn(1_500)  # some 35 batches


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker on a node of one core has
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cluster() -> Iterator[Any]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return ModelSource(str(tiny.save(tmp_path_factory.mktemp("ray") / "llama")))


def recorded(planned: Plan, model: Model, path: Path) -> bytes:
    with record_contrasts(LocalWorker(model), planned, path):
        pass
    return path.read_bytes()


def test_a_killed_node_changes_nothing(cluster: Any, source: ModelSource, tmp_path: Path) -> None:
    model = load(source)
    planned = plan(model, pairs(*PAIRS), ReadSettings())
    expected = recorded(planned, model, tmp_path / "one")
    counts: list[int] = []

    def kill_one(count: int) -> None:
        counts.append(count)
        if len(counts) == 6:
            cluster.remove_node(sorted(cluster.worker_nodes, key=str)[0], allow_graceful=False)

    with on_cluster(source, cluster.address, None) as workers:
        assert len(workers.actors) == 2
        with record_contrasts(workers, planned, tmp_path / "ray", kill_one):
            pass
        assert len(workers.actors) == 1, "the node was killed too late to matter"
    assert sum(counts) == 2 * len(PAIRS)
    assert (tmp_path / "ray").read_bytes() == expected


def test_a_lost_driver_goes_on(cluster: Any, source: ModelSource, tmp_path: Path) -> None:
    class LostError(Exception):
        pass

    model = load(source)
    planned = plan(model, pairs(*PAIRS), ReadSettings())
    expected = recorded(planned, model, tmp_path / "one")
    n_seen = 0

    def stop(count: int) -> None:
        nonlocal n_seen
        n_seen += count
        if n_seen > len(PAIRS):
            raise LostError

    counts: list[int] = []
    with on_cluster(source, cluster.address, None) as workers:
        with pytest.raises(LostError):
            record_contrasts(workers, planned, tmp_path / "ray", stop)
        with record_contrasts(workers, planned, tmp_path / "ray", counts.append):
            pass
    assert counts[0] >= len(PAIRS)
    assert (tmp_path / "ray").read_bytes() == expected


def test_what_fails_in_a_worker_fails_here(cluster: Any, source: ModelSource) -> None:
    def refuse(model: Model) -> None:
        raise InputError("no such text", hint="give another")

    with on_cluster(source, cluster.address, 1) as workers:
        with pytest.raises(InputError, match=r"^no such text$") as caught:
            once(workers, refuse)
        assert caught.value.hint == "give another"
        assert once(workers, Model.describe) == f"{Path(source.name).name} · cpu float32"
    with (
        pytest.raises(SteerError, match="3 workers do not fit"),
        on_cluster(source, cluster.address, 3),
    ):
        pass


def test_every_worker_lost_is_said(cluster: Any, source: ModelSource) -> None:
    def sink(model: Model) -> None:
        os._exit(1)

    with (
        on_cluster(source, cluster.address, None) as workers,
        pytest.raises(SteerError, match="every worker was lost"),
    ):
        once(workers, sink)


def test_the_command_line_gives_the_bytes_of_one_process(
    cluster: Any, source: ModelSource, tmp_path: Path
) -> None:
    lines = [json.dumps({"positive": a, "negative": b}) for a, b in PAIRS]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    for out, options in (("one", ()), ("ray", ("--ray", cluster.address))):
        run = steer(
            "extract",
            tmp_path / "pairs.jsonl",
            "-o",
            tmp_path / f"{out}.safetensors",
            "--name",
            "x",
            "-m",
            source.name,
            *options,
        )
        assert run.returncode == 0, run.stderr
        assert ("Ray: 2 workers" in run.stderr) == bool(options)
    assert (tmp_path / "ray.safetensors").read_bytes() == (
        tmp_path / "one.safetensors"
    ).read_bytes()


def test_measures_are_those_of_one_process(
    cluster: Any, source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, part in (("pairs", PAIRS[:40]), ("held", PAIRS[40:80])):
        lines = [json.dumps({"positive": a, "negative": b}) for a, b in part]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    vector, model = tmp_path / "x.safetensors", ("-m", source.name)
    result = steer("extract", tmp_path / "pairs.jsonl", "-o", vector, *model)
    assert result.returncode == 0, result.stderr
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("w3 w4\nw5 w6")
    arguments = ("--texts", tmp_path / "held.jsonl", "--prompts", prompts, *model, "--json")
    size = ("--samples", "8", "--max-tokens", "12")
    for command in (("eval", "-v", f"{vector}:2@1"), ("sweep", "-v", vector)):
        outputs = []
        for options in ((), ("--ray", cluster.address)):
            run = steer(*command, *arguments, *size, *options)
            assert run.stdout, run.stderr
            report = json.loads(run.stdout)
            report.pop("command")
            outputs.append(report)
        assert outputs[1] == outputs[0], command


def test_no_cluster_is_said(source: ModelSource, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"positive": "w3", "negative": "w4"}')
    run = steer(
        "extract",
        tmp_path / "pairs.jsonl",
        "-o",
        tmp_path / "x.safetensors",
        "-m",
        source.name,
        "--ray",
        "auto",
    )
    assert run.returncode == 1
    assert "no Ray cluster at auto" in run.stderr
    assert "Traceback" not in run.stderr


def steer(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "steer", *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
