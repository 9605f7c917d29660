"""Who does the work changes nothing: any number of workers, in any order, give the same bytes."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from recorded import pairs

from steer.base.errors import SteerError
from steer.engines.ray_workers import places
from steer.extraction import ReadSettings, plan, record_contrasts
from steer.hooks import record
from steer.models.model import Model
from steer.workers import Job, LocalWorker

PAIRS = pairs(*[(f"w{i} w{i + 7} w{i + 9}", f"w{i} w{i + 20}") for i in range(3, 39)])


@dataclass
class Several:
    """Workers that come to their items in any order."""

    models: list[Model]
    rng: random.Random

    def map(self, job: Job[Any, Any], items: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        ready = [job(model) for model in self.models]
        numbered = list(enumerate(items))
        for number, item in self.rng.sample(numbered, len(numbered)):
            yield number, self.rng.choice(ready)(item)


@pytest.mark.parametrize("seed", range(3))
def test_any_workers_in_any_order_record_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(record, "token_budget", lambda model: 24)  # many batches
    models = [tiny.model("llama") for _ in range(3)]
    planned = plan(models[0], PAIRS, ReadSettings())
    with record_contrasts(LocalWorker(models[0]), planned, tmp_path / "one"):
        pass
    with record_contrasts(Several(models, random.Random(seed)), planned, tmp_path / "several"):
        pass
    assert (tmp_path / "several").read_bytes() == (tmp_path / "one").read_bytes()


Node = st.fixed_dictionaries({"CPU": st.integers(0, 64)}, optional={"GPU": st.integers(0, 8)})


@given(st.lists(Node, max_size=5), st.none() | st.integers(1, 40), st.booleans())
def test_workers_fit_on_the_nodes_or_are_refused(
    nodes: list[dict[str, float]], count: int | None, whole_nodes: bool
) -> None:
    try:
        n, cpus, gpus = places(nodes, count, whole_nodes=whole_nodes)
    except SteerError as error:
        assert "room" in str(error) or "no CPU core" in str(error)
        return
    assert n == (count or n)
    assert n >= 1
    room = [
        min(
            int(node["CPU"]) // cpus if cpus else 10**6,
            int(node.get("GPU", 0)) // gpus if gpus else 10**6,
        )
        for node in nodes
        if not gpus or node.get("GPU", 0) >= gpus
    ]
    assert sum(room) >= n


@pytest.mark.parametrize(
    ("nodes", "count", "expected"),
    [
        ([{"CPU": 16, "GPU": 8}], None, (8, 2, 1)),
        ([{"CPU": 4}, {"CPU": 4}], None, (2, 4, 0)),
        ([{"CPU": 4}, {"CPU": 4}], 4, (4, 2, 0)),
        ([{"CPU": 2}, {"CPU": 16, "GPU": 2}], None, (2, 8, 1)),
    ],
)
def test_cores_are_dealt_out(
    nodes: list[dict[str, float]], count: int | None, expected: tuple[int, int, int]
) -> None:
    assert places(nodes, count, whole_nodes=False) == expected
