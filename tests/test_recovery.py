"""The measure of a distilled edit, by hand and by its laws."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from steer.distillation.recovery import Divergence, recovery, token_kl


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
    interval = recovery([1.0, 2.0], [4.0, 8.0])
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.75, 0.75, 0.75))
    uneven = recovery([0.0, 4.0], [4.0, 4.0])
    assert uneven.value == pytest.approx(0.5)
    assert uneven.low <= 0.0 and uneven.high >= 1.0  # two texts say hardly more


def test_the_condition_itself_recovers_all_and_nothing_recovers_nothing() -> None:
    base = [0.3, 0.1, 2.0]
    assert recovery([0.0, 0.0, 0.0], base).value == 1
    assert recovery(base, base).value == 0
    assert recovery([2 * value for value in base], base).value == -1


@given(tokens=st.integers(1, 700), vocabulary=st.integers(1, 40), seed=st.integers(0, 999))
@example(tokens=513, vocabulary=3, seed=0)  # more than are taken at a time
def test_the_gradient_of_a_divergence_is_autograds(tokens: int, vocabulary: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return 3 * torch.randn(shape, generator=generator, dtype=torch.float64)

    teacher, outer = drawn(tokens, vocabulary).log_softmax(-1), drawn(tokens)
    ours, theirs = (drawn(tokens, vocabulary).requires_grad_() for _ in range(2))
    theirs.data.copy_(ours.data)
    divergence = Divergence.apply(ours, teacher)
    expected = torch.nn.functional.kl_div(
        theirs.log_softmax(-1), teacher, log_target=True, reduction="none"
    ).sum(-1)
    torch.testing.assert_close(divergence, expected)
    (divergence @ outer).backward()
    (expected @ outer).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_what_a_teacher_excludes_has_a_finite_gradient() -> None:
    logits = torch.tensor([[0.0, 0.0]], requires_grad=True)
    Divergence.apply(logits, log([1.0, 0.0])).sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[-0.5, 0.5]]
