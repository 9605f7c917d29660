"""The doctor: well where steering works, and not where it does not."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import tiny
import torch
from families import RECURRENT, build_recurrent
from packaging.requirements import Requirement

from steer import selftest
from steer.base import diagnosis
from steer.base.diagnosis import check, packages
from steer.base.errors import SteerError
from steer.hooks import hooks
from steer.hooks.clock import TokenClock
from steer.models.model import Model
from steer.selftest import examine


def failed(model: Model) -> list[str]:
    return [check_result.name for check_result in examine(model) if not check_result.passed]


FAMILIES = ["llama", "gpt2", "gemma3", "qwen3_moe", "falcon", "opt", "phi"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_on_which_steering_works_is_well(family: str) -> None:
    done = list(examine(tiny.model(family)))
    assert [check_result for check_result in done if not check_result.passed] == []
    assert len(done) == 9


@pytest.mark.parametrize("family", RECURRENT)
def test_a_recurrent_model_on_which_steering_works_is_well(family: str) -> None:
    """Its state takes the place of a cache, and its rows are run one by one."""
    done = list(examine(tiny.wrapped(build_recurrent(family), family)))
    assert [check_result for check_result in done if not check_result.passed] == []


def test_half_precision_is_well() -> None:
    network = tiny.build("llama").to(torch.bfloat16)
    assert failed(tiny.wrapped(network, "half")) == []


def test_steers_that_are_not_injected_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "injected", lambda *_: contextlib.nullcontext())
    assert failed(tiny.model("llama")) == ["a large coefficient does"]


def test_steers_that_lose_count_of_positions_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TokenClock, "tick", lambda *_: None)
    assert failed(tiny.model("llama")) == ["a cache changes nothing"]


def test_a_coefficient_of_0_that_does_something_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from steer.steering import steers

    original = steers.Steer.delta

    def leaking(self: steers.Steer, layer: int) -> Any:
        return original(self, layer) + 1e-3 * self.vector.direction(layer)

    monkeypatch.setattr(steers.Steer, "delta", leaking)
    assert "coefficient 0 changes nothing" in failed(tiny.model("llama"))


def test_hooks_that_stay_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.wrapped(tiny.build("llama"), "kept")
    replaced = hooks.replaced
    monkeypatch.setattr(hooks, "replaced", lambda *both: replaced(*both) and (lambda: None))
    assert "hooks are removed afterwards" in failed(model)


def test_numbers_that_are_not_finite_are_found() -> None:
    network = tiny.build("llama")
    network.model.layers[1].mlp.down_proj.weight.data.fill_(torch.inf)
    assert {"model runs", "hooks fire"} <= set(failed(tiny.wrapped(network, "inf")))


def test_a_check_tells_what_happened_and_what_to_do() -> None:
    def fail(error: Exception) -> str:
        raise error

    assert check("x", lambda: "seen", "do").advice is None
    for error, detail, advice in (
        (SteerError("broken", hint="mend it"), "broken", "mend it"),
        (SteerError("broken"), "broken", "do"),
        (OSError("libfoo.so is missing"), "OSError: libfoo.so is missing", "do"),
    ):
        check_result = check("x", lambda error=error: fail(error), "do")
        assert (check_result.passed, check_result.detail, check_result.advice) == (
            False,
            detail,
            advice,
        )


def test_packages_that_are_missing_or_old_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = [Requirement(text) for text in ("torch>=1", "numpy>=999", "nothing-of-this-name")]
    # Not those of steer itself: this also runs on releases that it does not allow yet.
    monkeypatch.setattr(diagnosis, "_requirements", lambda: needed[:1])
    assert packages().passed
    monkeypatch.setattr(diagnosis, "_requirements", lambda: needed)
    versions = packages()
    assert not versions.passed
    assert "numpy is" in versions.detail and "nothing-of-this-name is missing" in versions.detail
    assert "torch" not in versions.detail
