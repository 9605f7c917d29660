"""Slots of an engine, without the engine: what they add is what hooks add."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import tiny
import torch

from steer.base.errors import HookError, UsageError
from steer.engines import wire
from steer.engines.slots import Slots, shape_of
from steer.engines.vllm_engine import Engine
from steer.hooks.clock import TokenClock
from steer.hooks.inject import injected
from steer.models.model import Model
from steer.steering.operation import Coefficient, Operation
from steer.steering.scope import Schedule, Scope
from steer.steering.steers import Steer
from steer.vectors.vector import SteeringVector

IDS = [1, 5, 9, 13, 17, 21]
ONE = Coefficient(1.0)
#: Bounds that no token of a tiny model passes.
FAR: tuple[tuple[str, float], ...] = (("cap", 1e4), ("floor", -1e4))


def steerings(model: Model) -> list[list[Steer]]:
    first, second = (tiny.vector(model, layers=(0, 1, 2), seed=seed) for seed in (0, 1))
    pre = tiny.vector(model, layers=(1,), site="resid_pre", seed=2)
    return [
        [],
        [Steer(first, Coefficient(1.5), (1,)), Steer(second, Coefficient(0.2, "residual"), (0, 2))],
        [Steer(pre, ONE, (1,), Scope("response")), Steer(second, ONE, (2,), Scope("prompt"))],
        [Steer(first, ONE, (1,), op=Operation("ablate")), Steer(second, ONE, (1,))],
        [
            Steer(first, Coefficient(0.5), (2,), op=Operation("clamp", "pos")),
            Steer(second, ONE, (2,), op=Operation("cap", 0.1)),
            Steer(second, ONE, (0,), op=Operation("floor", 0.3)),
        ],
        [tiny.low_rank_steer(model, 0.7, layers=(1, 2)), Steer(second, ONE, (1,))],
    ]


def named(steers: list[list[Steer]]) -> dict[SteeringVector, str]:
    vectors = dict.fromkeys(steer.vector for each_steer in steers for steer in each_steer)
    return {vector: f"v{index}" for index, vector in enumerate(vectors)}


def logits(model: Model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.network(torch.tensor([ids])).logits[0]


@pytest.mark.parametrize("parts", [1, 2], ids=["whole", "branch and skip"])
def test_slots_edit_as_hooks_do(parts: int) -> None:
    model = tiny.model("llama")
    every = steerings(model)
    names = named(every)
    slots = Slots(shape_of(every, 2 * len(every) + 1), list(names), 32, 64, torch.device("cpu"))
    rng = torch.Generator().manual_seed(0)
    skip = torch.randn(len(IDS), 32, generator=rng) if parts == 2 else None

    def edit(layer: int) -> Any:
        def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
            if skip is None:
                return slots.layers[layer](output[0], None)[None]
            return (slots.layers[layer](output[0] - skip, skip) + skip)[None]

        return hook

    blocks = model.network.model.layers
    handles = [blocks[layer].register_forward_hook(edit(layer)) for layer in slots.layers]
    readings = []
    try:
        for steers in every:
            key = wire.encode(steers, names)
            slots.find(key, wire.decode(key, {name: v for v, name in names.items()}), {})
            slots.fill([key], [0, len(IDS)], [len(IDS) - 1])
            readings.append(logits(model, IDS))
    finally:
        for handle in handles:
            handle.remove()
    plain = logits(model, IDS)
    for steers, got in zip(every, readings, strict=True):
        clock = TokenClock(len(IDS), torch.zeros(1, dtype=torch.int64))
        with injected(model, steers, clock):
            expected = logits(model, IDS)
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
        assert not steers or (expected - plain).abs().max() > 1e-2


def test_requests_of_a_batch_get_their_own_slots() -> None:
    model = tiny.model("llama")
    every = steerings(model)[1:3]
    names = named(every)
    slots = Slots(shape_of(every, 5), list(names), 32, 16, torch.device("cpu"))
    keys = [wire.encode(steers, names) for steers in every]
    for key, steers in zip(keys, every, strict=True):
        slots.find(key, steers, dict.fromkeys(keys))
    # One whole prompt of 3, one unsteered of 2, and a later token of the second steering.
    slots.fill([keys[0], "", keys[1]], [0, 3, 5, 6], [2, 1, -4])
    assert slots.rows[:8].tolist() == [1, 1, 2, 0, 0, 4, 0, 0]
    with pytest.raises(RuntimeError, match="all slots are in use"):
        slots.find("another", every[0], dict.fromkeys([*keys, "another"]))
    slots.find("another", every[0], {"another": None, keys[1]: None})  # the first one's are free
    slots.fill(["another"], [0, 2], [1])
    assert slots.rows[:2].tolist() == [1, 2]


class Hooked(Engine):
    """Answers as vLLM would, by hooks; or, where it is deaf, drops every steer."""

    deaf = False

    def log_probs(
        self, rows: Sequence[Sequence[int]], steerings: Sequence[Sequence[Steer]], top: int
    ) -> list[dict[int, float]]:
        readings = []
        for ids, steers in zip(rows, steerings, strict=True):
            clock = TokenClock(len(ids), torch.zeros(1, dtype=torch.int64))
            with injected(self.network, () if self.deaf else steers, clock):
                readings.append(dict(enumerate(logits(self.network, list(ids))[-1].tolist())))
        return readings


class Deaf(Hooked):
    deaf = True


def test_an_engine_that_drops_steers_is_told_from_a_bound_that_is_not_passed() -> None:
    model = tiny.model("llama")
    vector = tiny.vector(model, layers=(1,))
    every = steerings(model)
    every += [[Steer(vector, ONE, (1,), op=Operation(op, at))] for op, at in FAR]
    names = named(every)
    for steers in every:
        # A steer of the prompt behind the last attention reaches nothing, and is idle.
        idle = Hooked(model, names).tested([steers]).idle
        assert all(str(steer.scope) == "prompt" and steer.layers == (2,) for steer in idle)
        with pytest.raises(HookError, match="changes nothing") if steers else nullcontext():
            Deaf(model, names).tested([steers])


def test_what_travels_arrives() -> None:
    model = tiny.model("llama")
    every = steerings(model)
    names = named(every)
    vectors = {name: vector for vector, name in names.items()}
    for steers in every:
        assert wire.decode(wire.encode(steers, names), vectors) == steers
    nothing = [Steer(next(iter(names)), Coefficient(0.0), (1,))]
    assert wire.encode(nothing, names) == ""


def test_what_an_engine_cannot_do_is_refused() -> None:
    model = tiny.model("llama")
    vector = tiny.vector(model, layers=(1,))
    attention = tiny.vector(model, layers=(1,), site="attn_out")
    for steer in (
        Steer(vector, ONE, (1,), op=Operation("rotate", 20.0)),
        Steer(vector, ONE, (1,), op=Operation("ablate", writes=True)),
        Steer(vector, ONE, (1,), op=Operation(keep_norm=True)),
        Steer(vector, ONE, (1,), Scope("range", 1, 3)),
        Steer(vector, ONE, (1,), schedule=Schedule("decay", 5)),
        Steer(attention, ONE, (1,)),
    ):
        with pytest.raises(UsageError, match="vLLM does not support"):
            wire.check_engine_can(steer, "vLLM")
    wire.check_engine_can(Steer(vector, ONE, (1,)), "vLLM")
