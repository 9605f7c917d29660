"""The clock of positions depends on no argument's name, and notices when it cannot know."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from steer.base.errors import HookError
from steer.generate.apply import Sampling, generate
from steer.hooks.clock import TokenClock
from steer.steering.scope import Scope

MODULE = nn.Identity()
NAMES = st.text(alphabet="abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12).filter(
    lambda name: name not in {"input_ids", "attention_mask", "inputs_embeds", "position_ids"}
)


class Cache:
    """What every key-value cache can say."""

    def __init__(self, length: int) -> None:
        self.length = length

    def get_seq_length(self) -> int:
        return self.length


class Mute:
    """A state that does not count."""


def clock(prompt_length: int, *pads: int) -> TokenClock:
    return TokenClock(prompt_length, torch.tensor(pads or (0,)))


def forward(
    clock: TokenClock, width: int, *, mask: int | None = None, rows: int = 1, **options: Any
) -> None:
    if mask is not None:
        options["attention_mask"] = torch.ones(rows, mask, dtype=torch.int64)
    clock.tick(MODULE, (), {"input_ids": torch.zeros(rows, width, dtype=torch.int64), **options})


@given(name=NAMES, prompt=st.integers(1, 9), new=st.integers(1, 5), masked=st.booleans())
def test_a_cache_counts_under_any_name(name: str, prompt: int, new: int, masked: bool) -> None:
    ticking = clock(prompt)
    for step in range(new):
        before = 0 if step == 0 else prompt + step - 1
        width = prompt if step == 0 else 1
        forward(ticking, width, mask=before + width if masked else None, **{name: Cache(before)})
        assert ticking.start == before
        assert ticking.step(width) == step


@given(prompt=st.integers(2, 9), chunk=st.integers(1, 4))
def test_a_prompt_may_come_in_chunks(prompt: int, chunk: int) -> None:
    ticking = clock(prompt)
    for before in range(0, prompt, chunk):
        width = min(chunk, prompt - before)
        forward(ticking, width, memory=Cache(before))
        assert ticking.start == before


def test_a_mask_counts_where_the_state_does_not() -> None:
    ticking = clock(3)
    forward(ticking, 3, mask=3, state=Mute())
    forward(ticking, 1, mask=4, state=Mute())
    assert ticking.start == 3


@pytest.mark.parametrize("prompt", [1, 4])
def test_positions_that_stand_still_are_an_error(prompt: int) -> None:
    """As they would where a cache is passed in a way that is not known yet."""
    ticking = clock(prompt)
    forward(ticking, prompt, mask=prompt)
    with pytest.raises(HookError, match="are inconsistent"):
        forward(ticking, 1, mask=prompt + 1)


def test_positions_that_stand_still_without_a_mask_are_an_error() -> None:
    ticking = clock(4)
    forward(ticking, 4)
    with pytest.raises(HookError, match="are inconsistent"):
        forward(ticking, 1)


def test_a_cache_that_does_not_grow_is_an_error() -> None:
    ticking = clock(4)
    forward(ticking, 4, cache=Cache(0))
    forward(ticking, 1, cache=Cache(4))
    with pytest.raises(HookError, match="are inconsistent"):
        forward(ticking, 1, cache=Cache(4))


def test_a_mask_of_another_length_is_an_error() -> None:
    with pytest.raises(HookError, match="the mask"):
        forward(clock(4), 4, mask=6, cache=Cache(0))


def test_position_ids_that_differ_are_an_error() -> None:
    right = {"position_ids": torch.tensor([[0, 0, 1], [0, 1, 2]])}
    forward(clock(3, 1, 0), 3, rows=2, cache=Cache(0), **right)
    wrong = {"position_ids": torch.tensor([[0, 1, 2], [0, 1, 2]])}
    with pytest.raises(HookError, match="position ids"):
        forward(clock(3, 1, 0), 3, rows=2, cache=Cache(0), **wrong)


def test_generation_steers_the_same_whatever_the_cache_is_called() -> None:
    """The whole way: a library that renames the argument changes no text."""
    usual, renamed = tiny.wrapped(tiny.build("llama"), "a"), tiny.wrapped(tiny.build("llama"), "a")
    network: Any = renamed.network
    prepare = network.prepare_inputs_for_generation
    name = next(key for key in ("past_key_values", "cache") if key in _arguments(network))

    @functools.wraps(prepare)
    def prepared(*args: Any, **options: Any) -> dict[str, Any]:
        inputs = dict(prepare(*args, **options))
        assert name in inputs
        inputs["remembered"] = inputs.pop(name)
        return inputs

    own = network.forward

    @functools.wraps(own)
    def forward(**arguments: Any) -> Any:
        arguments[name] = arguments.pop("remembered", None)
        return own(**arguments)

    network.prepare_inputs_for_generation = prepared
    network.forward = forward
    sampling = Sampling(max_tokens=6, temperature=0)
    for scope in (Scope("response"), Scope("prompt"), Scope("steps", 0, 3)):
        texts = [
            [generation.text for generation in generate(model, ["w5 w9 w4"], [steer], sampling)]
            for model in (usual, renamed)
            for steer in [tiny.steer(model, 8.0, scope)]
        ]
        assert texts[0] == texts[1]


def _arguments(network: Any) -> set[str]:
    return set(inspect.signature(type(network).forward).parameters)
