"""Laws of ridge distillation: the regression itself, and the edits that it makes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from families import RECURRENT, build_recurrent
from torch import Tensor
from typer.testing import CliRunner

from steer.base.errors import InputError, SteerError, UsageError
from steer.base.journal import Journal
from steer.cli.main import app
from steer.distillation import lowrank, regress, sequence
from steer.distillation.below import BlockOutputs, copy_to_disk
from steer.distillation.distill import distill
from steer.distillation.lessons import Conditions, Lesson, log_probs, write_lessons
from steer.distillation.lowrank import Edits, Teacher, divergences, loss, runs_ends
from steer.distillation.quick import quick
from steer.distillation.ridge import Moments, Spread
from steer.distillation.sequence import SequentialRegression
from steer.distillation.settings import DistillSettings
from steer.hooks import head
from steer.hooks.beginnings import takes_beginnings
from steer.vectors import store
from steer.vectors.sites import Site

CONDITIONS = Conditions("w5 w9 w33")
PROMPTS = ["w4 w7", "w60 w3 w18"]
SMALL = DistillSettings(
    name="x",
    method="ridge",
    layers=(0, 1, 2),
    rank=8,
    samples=32,
    held_out=16,
    max_tokens=12,
    scope="response",
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def lessons() -> list[Lesson]:
    return write_lessons(tiny.model("llama"), CONDITIONS, PROMPTS, range(40), max_tokens=12, seed=0)


def toy(n: int = 400, width: int = 12, rank: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of very unlike sizes with a large mean, and what an affine map of a rank gives."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, width, generator=generator) * torch.logspace(0, 2, width) + 30
    parts = [torch.randn(size, generator=generator) for size in ((rank, width), (rank, width))]
    return x, 2 + x @ parts[0].T @ parts[1] / width, parts[0]


def moments(x: Tensor, y: Tensor, weights: Tensor | None = None, size: int = 1000) -> Moments:
    moments = Moments(x.shape[1])
    for start in range(0, len(x), size):
        rows = slice(start, start + size)
        moments.add(x[rows], y[rows], None if weights is None else weights[rows])
    return moments


@pytest.mark.parametrize("rank", [1, 3, 12])
def test_a_map_of_the_rank_is_recovered_as_the_ridge_vanishes(rank: int) -> None:
    x, y, _ = toy(rank=rank)
    fitted = moments(x, y).spectrum().solve(0.0, rank)
    assert (fitted(x) - y).norm() <= 1e-4 * y.norm()
    coarse = moments(x, y).spectrum().solve(10.0, rank)
    assert (coarse(x) - y).norm() > 1e-2 * (y - y.mean(0)).norm()


@pytest.mark.parametrize("rank", [1, 4, 12])
def test_entries_between_the_factors_have_a_variance_of_1(rank: int) -> None:
    x, y, _ = toy()
    fitted = moments(x, y).spectrum().solve(1e-2, rank)
    inner = (x - x.mean(0)) @ fitted.down.T
    assert torch.allclose(inner.std(0, unbiased=False), torch.ones(rank), rtol=1e-3)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_sums_in_parts_are_the_sums_of_all(size: int) -> None:
    x, y, _ = toy()
    weights = torch.linspace(0, 2, len(x))
    at_once, in_parts = (
        moments(x, y, weights, many).spectrum().solve(1e-2, 4) for many in (1000, size)
    )
    assert torch.allclose(at_once(x), in_parts(x), rtol=1e-3, atol=1e-3 * float(y.std()))


def test_a_regression_of_full_rank_is_the_ridge_regression_of_a_textbook() -> None:
    x, y, _ = toy()
    y = y + torch.randn(y.shape, generator=torch.Generator().manual_seed(1)) * y.std()
    fitted = moments(x, y).spectrum().solve(0.1, 12)
    centred = (x - x.mean(0)).double()
    g = centred.T @ centred / len(x)
    solution = torch.linalg.solve(
        g + 0.1 * g.diagonal().mean() * torch.eye(12), centred.T @ (y - y.mean(0)).double()
    ) / len(x)
    expected = y.mean(0) + (centred @ solution).float()
    assert torch.allclose(fitted(x), expected, rtol=1e-3, atol=1e-3 * float(y.std()))


def test_a_token_of_weight_2_counts_as_two_and_one_of_0_not_at_all() -> None:
    x, y, _ = toy(60)
    weights = torch.tensor([0.0, 1.0, 2.0]).repeat(20)
    twice = torch.arange(60).repeat_interleave(weights.long())
    weighted = moments(x, y, weights).spectrum().solve(1e-2, 3)
    repeated = moments(x[twice], y[twice]).spectrum().solve(1e-2, 3)
    assert torch.allclose(weighted(x), repeated(x), rtol=1e-3, atol=1e-3 * float(y.std()))


def test_rank_0_is_the_mean_difference() -> None:
    x, y, _ = toy()
    fitted = moments(x, y).spectrum().solve(1e-2, 0)
    assert torch.allclose(fitted(x), y.mean(0).expand_as(y), rtol=1e-4)


def test_bad_numbers_are_errors() -> None:
    x, y, _ = toy()
    with pytest.raises(InputError, match="width"):
        moments(x, y).spectrum().solve(1e-2, 13)
    with pytest.raises(InputError, match="no tokens"):
        Moments(12).spectrum()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_held_out_texts_recover_more_than_of_the_mean_difference(family: str) -> None:
    edit, mean = (
        distill(tiny.model(family), CONDITIONS, PROMPTS, replace(SMALL, rank=rank))
        for rank in (8, 0)
    )
    distillation, plain = (vector.metadata.method.distillation for vector in (edit, mean))
    assert distillation is not None and plain is not None
    assert distillation.recovery > plain.recovery
    assert (distillation.method, distillation.steps, distillation.best_step) == ("ridge", 0, 0)
    assert distillation.ridge > 0


def test_the_stream_above_an_edit_is_that_of_the_edited_model(lessons: list[Lesson]) -> None:
    """Layer by layer from trunks, and with all edits in one forward: the same regressions."""
    model = tiny.model("llama")
    ridges = []
    for trunks in (True, False):
        regressions = SequentialRegression(model, lessons, (0, 1, 2), None)
        regressions._takes_trunks = trunks
        ridges.append(regressions.fit((0, 1, 2), 4, 1e-2))
    x = torch.randn(5, model.identity.d_model)
    for site, affine in ridges[0].items():
        assert torch.allclose(affine(x), ridges[1][site](x), rtol=1e-2, atol=1e-4)


def test_an_edit_in_any_units_does_what_its_regression_does(lessons: list[Lesson]) -> None:
    model = tiny.model("llama")
    width = model.identity.d_model
    affine = SequentialRegression(model, lessons, (1,), None).fit((1,), 4, 1e-2)[Site(1)]
    x = torch.randn(50, width)
    for deviation in (torch.ones(width), torch.logspace(-2, 2, width)):
        other = replace(affine, spread=Spread(torch.randn(width), deviation))
        edits = Edits.of(model, {Site(1): other}, start=None)
        direction, down, up = map(torch.from_numpy, edits.arrays(Site(1)))
        assert torch.allclose(direction + x @ down.T @ up.T, affine(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("start", [None, 0, 2])
def test_forwards_from_the_stream_below_are_whole_forwards(
    lessons: list[Lesson], start: int | None
) -> None:
    model = tiny.model("llama")
    regressions = SequentialRegression(model, lessons, (1, 2), start)
    edits = Edits.of(model, regressions.fit((1, 2), 4, 1e-2), start=start)
    below = BlockOutputs.of(model, lessons, 1)
    assert below is not None
    teacher = Teacher(model, lessons)
    full, upper = (
        divergences(model, lessons, teacher, edits, below=stored) for stored in (None, below)
    )
    assert upper == pytest.approx(full, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("family", "start"),
    [("llama", None), ("llama", 1), ("gpt2", None), ("gemma2", None), ("mistral", None)],
)
def test_ends_alone_have_the_loss_and_the_gradient_of_whole_rows(
    family: str, start: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.model(family)
    assert takes_beginnings(model)
    lessons = write_lessons(model, CONDITIONS, PROMPTS, range(6), max_tokens=8, seed=0)
    affines = SequentialRegression(model, lessons, (0, 1), start).fit((0, 1), 4, 1e-2)
    teacher = Teacher(model, lessons)

    def results() -> list[torch.Tensor]:
        edits = Edits.of(model, affines, start=start)
        tokens = loss(model, edits, lessons, teacher)
        tokens.sum().backward()
        gradients = [part.grad for part in edits.parameters]
        assert runs_ends(model, edits, lessons) is alone
        return [tokens.detach(), *(part for part in gradients if part is not None)]

    alone = True
    first = results()
    monkeypatch.setattr(lowrank, "takes_beginnings", lambda model: False)
    alone = False
    for part, expected in zip(first, results(), strict=True):
        assert torch.allclose(part, expected, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_models_run_whole_rows(name: str) -> None:
    assert not takes_beginnings(tiny.wrapped(build_recurrent(name), name))


def test_a_teacher_that_keeps_hidden_states_says_what_the_network_says(
    lessons: list[Lesson], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.model("llama")
    kept = Teacher(model, lessons)(lessons[:5])
    again = Teacher(model, lessons, budget=0)(lessons[:5])
    monkeypatch.setitem(head._tried, model.network, None)
    full = log_probs(model, [(lesson.conditioned, lesson.n) for lesson in lessons[:5]])
    assert torch.allclose(kept, again, atol=1e-4)
    assert torch.allclose(kept, full, atol=1e-4)


def test_the_same_texts_give_the_same_file_and_are_not_sampled_again(tmp_path: Path) -> None:
    model = tiny.model("llama")
    first = distill(model, CONDITIONS, PROMPTS, SMALL, kept=Journal(tmp_path / "kept"))
    kept = (tmp_path / "kept").read_bytes()
    again = distill(model, CONDITIONS, PROMPTS, SMALL, kept=Journal(tmp_path / "kept"))
    assert kept == (tmp_path / "kept").read_bytes() != b""
    assert store.to_bytes(first.sealed()) == store.to_bytes(again.sealed())


def test_layers_ridge_and_rank_are_chosen_unless_named() -> None:
    free = distill(tiny.model("llama"), CONDITIONS, PROMPTS, replace(SMALL, rank=None, layers=None))
    named = distill(tiny.model("llama"), CONDITIONS, PROMPTS, replace(SMALL, rank=3, layers=(1,)))
    assert free.metadata.layers and free.metadata.rank
    assert (named.metadata.layers, named.metadata.rank) == ((1,), 3)


def test_a_small_model_is_not_copied() -> None:
    assert quick(tiny.model("llama")) is tiny.model("llama")


def test_a_quick_copy_keeps_the_model_and_its_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steer.distillation.quick.WORTH", 0)
    monkeypatch.setattr("steer.distillation.quick.has_native_bfloat16", lambda: True)
    model = tiny.model("llama")
    copied = quick(model)
    assert (copied.network.dtype, model.network.dtype) == (torch.bfloat16, torch.float32)
    for buffer, other in zip(copied.network.buffers(), model.network.buffers(), strict=True):
        assert buffer.dtype == other.dtype and torch.equal(buffer, other)
    vector = distill(model, CONDITIONS, PROMPTS, SMALL)
    assert all(tensor.dtype == np.float32 for tensor in vector.tensors.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_spilled_comes_back(dtype: torch.dtype) -> None:
    tensor = torch.randn(3, 4, 5).to(dtype)
    assert torch.equal(copy_to_disk(tensor), tensor)
    assert copy_to_disk(tensor[:, :0]).shape == (3, 0, 5)


def test_all_positions_that_both_rows_share_are_read() -> None:
    longer = Lesson((1, 9, 9, 5, 6, 7), (1, 5, 6, 7), 2)
    for lesson in (longer, replace(longer, n=1)):
        group = sequence.Group.of(tiny.model("llama"), [lesson], 0)
        assert (group.rows, group.conditioned) == (
            [(lesson.baseline, 2)],
            [(lesson.conditioned, 2)],
        )


@pytest.mark.parametrize(
    ("changes", "message"), [({"rank": 33}, "width"), ({"method": "newton"}, "ridge and descent")]
)
def test_bad_settings_say_why(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as error:
        distill(tiny.model("llama"), CONDITIONS, PROMPTS, replace(SMALL, **changes))  # type: ignore[arg-type]
    assert message in f"{error.value} {error.value.hint}"


def test_a_template_that_drops_all_that_is_said_is_an_error() -> None:
    model = tiny.chat_model("llama")
    deaf = "w51 w60 w62 w52"
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.chat_template = deaf
    with pytest.raises(SteerError):
        distill(replace(model, tokenizer=tokenizer), replace(CONDITIONS, chat=True), PROMPTS, SMALL)


def test_the_command_writes_an_edit_that_acts_on_the_response(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "tiny-llama")
    run = CliRunner().invoke

    def steer(*words: object) -> str:
        result = run(app, [str(word) for word in words])
        assert result.exit_code == 0, result.output + repr(result.exception)
        return result.stdout

    out = tmp_path / "x.safetensors"
    few = ("--samples", 32, "--held-out", 16, "--max-tokens", 12)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("w4 w7\nw60 w3\n")
    begun = ("distill", "--condition", "w5 w9 w33", "-m", folder, "--prompts", prompts, *few)
    steer(*begun, "--method", "ridge", "-o", out)
    assert "response" in steer("show", out)
    assert "low-rank edit" in steer("show", out)
    steer("verify", out, "-m", folder)
    bad = run(
        app, [str(word) for word in (*begun, "--method", "x", "-o", tmp_path / "y.safetensors")]
    )
    assert bad.exit_code == 2


def test_a_regression_is_chosen_on_some_texts_and_fitted_on_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used: list[tuple[int, int]] = []
    fit = SequentialRegression.fit

    def recording(self: SequentialRegression, *arguments: Any) -> Any:
        used.append((len(self.lessons), arguments[1]))
        return fit(self, *arguments)

    monkeypatch.setattr(SequentialRegression, "fit", recording)
    monkeypatch.setattr(regress, "CHOICE_TEXTS", 8)
    vector = distill(tiny.model("llama"), CONDITIONS, PROMPTS, replace(SMALL, rank=None))
    assert {n for n, _ in used[:-1]} == {8}
    assert used[-1] == (SMALL.samples, vector.metadata.rank)
