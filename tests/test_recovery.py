"""The measure of a distilled edit, by hand and by its laws."""

from __future__ import annotations

import math

import pytest
import torch

from steer.distillation.recovery import recovery, token_kl


def log(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows).log()


def test_divergence_by_hand() -> None:
    teacher = log([0.5, 0.25, 0.25], [1.0, 0.0, 0.0])
    student = log([0.25, 0.25, 0.5], [0.5, 0.5, 0.0])
    # .5 ln 2 + 0 - .25 ln 2, and ln 2; what the teacher excludes adds nothing.
    expected = [0.25 * math.log(2), math.log(2)]
    assert token_kl(teacher, student).tolist() == pytest.approx(expected)
    assert token_kl(teacher, teacher).tolist() == [0.0, 0.0]


def test_recovery_by_hand() -> None:
    found = recovery([1.0, 2.0], [4.0, 8.0])
    assert (found.value, found.low, found.high) == pytest.approx((0.75, 0.75, 0.75))
    uneven = recovery([0.0, 4.0], [4.0, 4.0])
    assert uneven.value == pytest.approx(0.5)
    assert (uneven.low, uneven.high) == pytest.approx((0.0, 1.0))


def test_the_condition_itself_recovers_all_and_nothing_recovers_nothing() -> None:
    base = [0.3, 0.1, 2.0]
    assert recovery([0.0, 0.0, 0.0], base).value == 1
    assert recovery(base, base).value == 0
    assert recovery([2 * one for one in base], base).value == -1
