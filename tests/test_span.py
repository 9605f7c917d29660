"""Ablation of several directions of a layer at once."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import tiny
import torch
from families import VOCABULARY
from torch import Tensor

from steer.base.errors import VectorError
from steer.hooks.clock import TokenClock
from steer.hooks.inject import injected
from steer.hooks.record import capture
from steer.steering.algebra import combine
from steer.steering.operation import Coefficient, parse_operation
from steer.steering.spec import parse
from steer.steering.steers import Steer, resolve
from steer.vectors import store
from steer.vectors.sites import Site
from steer.vectors.vector import SteeringVector

MODEL = tiny.model("llama")
IDS = torch.randint(3, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(1))
LAYERS = (0, 1)


def part(seed: int) -> Steer:
    vector = tiny.vector(MODEL, layers=LAYERS)
    drawn = np.random.default_rng(seed).normal(size=vector.directions.shape).astype(np.float32)
    norms = np.linalg.norm(drawn, axis=1)
    statistics = tuple(
        msgspec.structs.replace(row, norm=float(norm), resid_norm=10.0)
        for row, norm in zip(vector.metadata.statistics, norms, strict=True)
    )
    metadata = msgspec.structs.replace(vector.metadata, name=f"v{seed}", statistics=statistics)
    return Steer(SteeringVector(metadata, drawn), Coefficient(1), LAYERS)


PARTS = [part(seed) for seed in range(3)]


def spanned(parts: list[Steer]) -> SteeringVector:
    return combine(parts, name="s", op="span")


@torch.no_grad()
def logits(*steers: Steer) -> Tensor:
    clock = TokenClock(IDS.shape[1], torch.zeros(len(IDS), dtype=torch.int64))
    with injected(MODEL, steers, clock):
        return torch.as_tensor(MODEL.network(input_ids=IDS).logits)


@torch.no_grad()
def activations(layer: int, *steers: Steer) -> Tensor:
    clock = TokenClock(IDS.shape[1], torch.zeros(len(IDS), dtype=torch.int64))
    with injected(MODEL, steers, clock):
        site = Site(layer)
        return capture(MODEL, IDS, torch.ones_like(IDS), [site])[site]


def test_nothing_is_left_along_any_of_the_directions() -> None:
    vector = spanned(PARTS)
    assert vector.metadata.rank == 3
    steer = resolve(parse("s"), vector)
    assert steer.op.name == "ablate"
    [layer] = steer.layers
    seen, plain = activations(layer, steer), activations(layer)
    for each in PARTS:
        stored = each.vector.direction(layer)
        direction = torch.tensor(stored / np.linalg.norm(stored))
        assert float((plain @ direction).abs().max()) > 1e-2
        assert float((seen @ direction).abs().max()) < 1e-4


def test_one_direction_is_a_plain_ablation() -> None:
    ablate = parse_operation("ablate", "ablate")
    single = Steer(PARTS[0].vector, Coefficient(1), LAYERS, op=ablate)
    expected = logits(single)
    assert not torch.allclose(expected, logits())
    steer = resolve(parse("s:1,ablate@0-1"), spanned(PARTS[:1]))
    torch.testing.assert_close(logits(steer), expected, rtol=1e-4, atol=1e-5)


def test_to_add_the_file_does_the_same_and_a_share_does_a_share() -> None:
    vector = spanned(PARTS)
    for coefficient in ("1", "0.5"):
        ablated, added = (
            logits(resolve(parse(f"s:{coefficient},{op}"), vector)) for op in ("ablate", "add")
        )
        torch.testing.assert_close(ablated, added, rtol=1e-4, atol=1e-5)
    assert torch.equal(logits(resolve(parse("s:0,ablate"), vector)), logits())


def test_the_order_of_the_parts_and_repeated_ones_do_not_matter() -> None:
    expected = logits(resolve(parse("s"), spanned(PARTS)))
    for parts in (PARTS[::-1], [*PARTS, PARTS[1]]):
        vector = spanned(parts)
        assert vector.metadata.rank == 3
        torch.testing.assert_close(
            logits(resolve(parse("s"), vector)), expected, rtol=1e-4, atol=1e-5
        )


def test_what_the_file_keeps_apart_is_not_touched() -> None:
    apart = PARTS[2].vector
    vector = combine(PARTS[:2], name="s", op="span", orthogonal_to=[apart])
    direction = torch.tensor(apart.direction(1) / np.linalg.norm(apart.direction(1)))
    down = torch.tensor(vector.low_rank(1)[0])  # type: ignore[index]
    assert float((down @ direction).abs().max()) < 1e-6


def test_a_file_of_several_directions_is_read_back(tmp_path: object) -> None:
    from pathlib import Path

    vector = spanned(PARTS)
    path = Path(str(tmp_path)) / "s.safetensors"
    written = store.write(path, vector)
    assert store.read(path).sha256 == written.sha256


def test_other_ops_have_no_one_direction() -> None:
    for op in ("clamp=0", "rotate=30"):
        with pytest.raises(VectorError, match="no one direction"):
            resolve(parse(f"s:{op}"), spanned(PARTS))
