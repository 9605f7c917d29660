"""Laws of distillation, on tiny random models and with conditions that are known edits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import killing
import msgspec
import numpy as np
import pytest
import tiny
import torch
from torch import Tensor
from typer.testing import CliRunner, Result

from steer.base.errors import InputError, SiteError, UsageError, VectorError
from steer.base.journal import Journal
from steer.base.progress import Advance, Phase, silent
from steer.cli.main import app
from steer.distillation.ceiling import ceiling
from steer.distillation.checkpoints import Checkpoint, Checkpoints
from steer.distillation.descent import candidates, descend
from steer.distillation.distill import distill, fit
from steer.distillation.lessons import (
    Conditions,
    Lesson,
    beginnings,
    first_edited,
    log_probs,
    write_lessons,
)
from steer.distillation.lowrank import Edits, Teacher, divergences
from steer.distillation.recovery import recovery
from steer.distillation.ridge import Spread
from steer.distillation.settings import DistillSettings, Schedule
from steer.distillation.task import Task
from steer.distillation.texts import Texts, write
from steer.hooks.clock import TokenClock
from steer.hooks.inject import injected
from steer.methods.registry import distill_methods
from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource
from steer.steering.spec import Coefficient, parse
from steer.steering.steers import Steer, resolve
from steer.vectors import store
from steer.vectors.sites import Site
from steer.vectors.vector import SteeringVector

CONDITIONS = Conditions("w5 w9 w33")
SMALL = DistillSettings(
    name="x", rank=2, layers=(1,), steps=30, samples=32, held_out=16, max_tokens=12, batch_size=8
)
PROMPTS = ["w4 w7", "w60 w3 w18"]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and lose much where others want the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def distilled(family: str = "llama", **changes: object) -> SteeringVector:
    model = tiny.model(family)
    return distill(model, CONDITIONS, PROMPTS, replace(SMALL, **changes))  # type: ignore[arg-type]


def lessons(model: Model, n: int = 24) -> list[Lesson]:
    """Random texts, with the same beginning under both conditions."""
    rng = np.random.default_rng(3)
    rows = [tuple(int(x) for x in rng.integers(3, 64, 4 + index % 9)) for index in range(n)]
    return [Lesson((1, *row), (1, *row), len(row) - 1) for row in rows]


def unspread(*sites: Site) -> dict[Site, Spread]:
    """Sites whose edits are in the units of the activations themselves."""
    width = tiny.model("llama").identity.d_model
    return dict.fromkeys(sites, Spread(torch.zeros(width), torch.ones(width)))


def planted(model: Model, rank: int, sites: Sequence[Site]) -> Edits:
    """A known edit, strong enough to matter."""
    edits = Edits(model, unspread(*sites), rank, seed=7, start=0)
    generator = torch.Generator().manual_seed(8)
    for parts in edits.state.values():
        for part in parts:
            part.data = 0.3 * torch.randn(part.shape, generator=generator)
    return edits


def texts(model: Model, n: int = 24) -> Texts:
    """The same texts for all purposes."""
    return Texts(CONDITIONS, ("",), *[lessons(model, n)] * 3)


class PlantedTeacher(Teacher):
    """Teaches what the model does under a known edit."""

    def __init__(self, model: Model, edits: Edits) -> None:
        super().__init__(model)
        self._edits = edits

    @torch.no_grad()
    def __call__(self, taught: Sequence[Lesson]) -> Tensor:
        with self._edits.active(taught):
            return log_probs(self.model, [(lesson.baseline, lesson.n) for lesson in taught])


@pytest.mark.parametrize("rank", [0, 2])
def test_a_condition_that_is_an_edit_is_recovered(rank: int) -> None:
    model = tiny.model("llama")
    site = Site(1)
    teacher = PlantedTeacher(model, planted(model, rank, [site]))
    others = replace(texts(model, 64), validation=lessons(model, 80)[64:])
    task = Task.of(model, others, teacher)
    edits = Edits(model, unspread(site), rank + 1 if rank else 0, seed=0, start=0)
    best, best_step = descend(task, edits, Schedule(200, 0.02, 16, seed=0))
    assert best > 0.95
    assert best_step > 100
    assert task.recovered(edits) == best


def test_the_teacher_itself_recovers_all_and_no_edit_recovers_nothing() -> None:
    model = tiny.model("llama")
    truth = planted(model, 2, [Site(0), Site(2)])
    teacher = PlantedTeacher(model, truth)
    task = Task.of(model, texts(model), teacher)
    assert task.recovered(truth) == pytest.approx(1, abs=1e-5)
    nothing = Edits(model, unspread(Site(1)), 2, seed=0, start=0)
    assert task.recovered(nothing) == pytest.approx(0, abs=1e-6)


def test_a_wild_descent_ends_no_worse_than_it_began() -> None:
    model = tiny.model("llama")
    teacher = PlantedTeacher(model, planted(model, 0, [Site(1)]))
    task = Task.of(model, texts(model), teacher)
    edits = Edits(model, unspread(Site(0), Site(1)), 4, seed=0, start=0)
    best, best_step = descend(task, edits, Schedule(40, 50.0, 8, seed=0))
    assert best >= 0
    assert task.recovered(edits) == pytest.approx(best, abs=1e-6)
    if best_step == 0:
        assert not any(part.any() for parts in edits.state.values() for part in (parts[0],))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_distilled_edit_does_part_of_what_the_condition_does(family: str) -> None:
    vector = distilled(family)
    distillation = vector.metadata.method.distillation
    assert distillation is not None
    assert 0 < distillation.recovery <= 1
    assert distillation.interval[0] <= distillation.recovery <= distillation.interval[1]
    assert "held-out" in vector.metadata.recommended.evidence


@pytest.mark.parametrize("scope", ["all", "question", "response"])
def test_the_file_does_what_was_measured(scope: str) -> None:
    """R of the vector, applied as a file would be, is R as it says."""
    model, conditions = tiny.model("llama"), Conditions("w5 w9 w33", "w8 w2")
    settings = replace(SMALL, scope=scope, layers=(0, 2))
    vector = distill(model, conditions, PROMPTS, settings)
    texts = write_lessons(model, conditions, PROMPTS, range(6), max_tokens=12, seed=5)
    teacher, start = Teacher(model), first_edited(texts, scope)
    edits = Edits(model, unspread(Site(0), Site(2)), 2, 0, start=start)
    for row, parts in enumerate(edits.state.values()):
        for part, stored in zip(parts, vector.tensors.values(), strict=True):
            part.data = torch.from_numpy(stored[row].copy())
    measured = divergences(model, texts, teacher, edits)
    steer = resolve(parse("x"), vector)
    assert str(steer.scope) == (f"{start}-" if scope == "question" else scope)
    for text, expected in zip(texts, measured, strict=True):
        clock = TokenClock(len(text.baseline) - text.n, torch.zeros(1, dtype=torch.int64))
        with torch.no_grad(), injected(model, [steer], clock):
            scores = log_probs(model, [(text.baseline, text.n)])
        known = teacher([text])
        assert float((known.exp() * (known - scores)).sum()) == pytest.approx(expected, rel=1e-3)


def test_a_question_begins_where_the_condition_has_ended() -> None:
    before, other, question, answer = (5, 9, 33), (8, 2), (4, 7), (1, 3)
    lesson = Lesson((*before, *question, *answer), (*other, *question, *answer), len(answer))
    assert (lesson.question, lesson.response) == (2, 3)
    assert [first_edited([lesson], scope) for scope in ("all", "question", "response")] == [
        0,
        2,
        None,
    ]


def test_the_same_seed_gives_the_same_file_and_another_another() -> None:
    again = distill(tiny.model("llama"), CONDITIONS, PROMPTS, SMALL)
    assert store.to_bytes(again.sealed()) == store.to_bytes(distilled().sealed())
    assert distilled(seed=1).sha256 != again.sha256


def test_rank_0_is_a_plain_vector() -> None:
    vector = distilled(rank=0)
    assert list(vector.tensors) == ["directions"]
    assert "rank" not in msgspec.to_builtins(vector.metadata) or vector.metadata.rank == 0
    share = Steer(vector, Coefficient(0.15, "residual"), (1,))
    (delta,) = [share.delta(layer) for layer in share.layers]
    expected = 0.15 * vector.metadata.at(1).resid_norm
    assert float(np.linalg.norm(delta)) == pytest.approx(expected, rel=1e-4)


def test_the_layer_is_searched_unless_named() -> None:
    searched = distilled(layers=None)
    assert set(searched.metadata.layers) <= {0, 1, 2}
    assert distilled(layers=()).metadata.layers == (0, 1, 2)
    assert candidates(range(3)) == (0, 1, 2)
    assert candidates(range(40)) == (0, 6, 11, 17, 22, 28, 33, 39)


@pytest.mark.parametrize("method", distill_methods().names)
def test_each_phase_says_how_far_it_is(method: str) -> None:
    phases: list[Phase] = []

    @contextmanager
    def progress(activity: str, total: int) -> Iterator[Advance]:
        phases.append(Phase(activity, total, 0.0))
        yield phases[-1].advance

    settings = replace(SMALL, steps=10, layers=None, method=method, scope="response")
    distill(tiny.model("llama"), CONDITIONS, PROMPTS, settings, progress)
    assert phases[0].activity == "sampling texts"
    assert phases[-1].activity == "measuring on held-out texts"
    for phase in phases:
        ended_early = phase.activity in ("fitting", "descending") or phase.activity.startswith(
            "trying"
        )
        assert phase.done == phase.total or (ended_early and 0 < phase.done < phase.total)


def test_files_of_low_rank_edits_are_stable_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    written = store.write(path, distilled())
    read = store.read(path)
    assert store.to_bytes(read) == path.read_bytes()
    assert read.metadata == written.metadata == store.read_header(path).metadata
    assert all(
        np.array_equal(tensor, read.tensors[name]) for name, tensor in written.tensors.items()
    )
    data = path.read_bytes()
    for tensor in range(3):
        bad = bytearray(data)
        bad[-1 - tensor * 32 * 4] ^= 1
        with pytest.raises(VectorError):
            store.from_bytes(bytes(bad), "file")


def test_a_low_rank_file_has_all_its_parts() -> None:
    vector = distilled()
    for tensors in ({}, {"down": vector.down}, {"down": vector.up, "up": vector.down}):
        with pytest.raises(VectorError):
            SteeringVector(vector.metadata, vector.directions, **tensors)
    plain = msgspec.structs.replace(vector.metadata, rank=0)
    with pytest.raises(VectorError):
        replace(vector, metadata=plain)


def test_a_percentage_of_a_low_rank_edit_is_an_error() -> None:
    with pytest.raises(VectorError, match="low-rank"):
        Steer(distilled(), Coefficient(0.15, "residual"), (1,))


def test_an_empty_prompt_begins_with_the_first_word_written() -> None:
    model = tiny.model("llama")
    before, after = beginnings(model, CONDITIONS, "")
    assert after is None
    assert list(before) == model.encode("w5 w9 w33")
    for lesson in write_lessons(model, CONDITIONS, [""], range(8), max_tokens=6, seed=0):
        assert lesson.baseline[0] == 1
        assert lesson.baseline[1:] == lesson.conditioned[len(before) :]
        assert lesson.n == len(lesson.baseline) - 2


def test_prompts_stand_after_both_conditions() -> None:
    model = tiny.model("llama")
    both = Conditions("w5", "w6")
    assert beginnings(model, both, "w7") == ((1, 5, 7), (1, 6, 7))
    for lesson in write_lessons(model, both, ["w7"], range(4), max_tokens=5, seed=0):
        assert lesson.conditioned[:3] == (1, 5, 7)
        assert lesson.baseline == (1, 6, 7, *lesson.conditioned[3:])


def test_what_cannot_be_distilled_says_why() -> None:
    model = tiny.model("llama")
    with pytest.raises(InputError, match="the same"):
        Conditions("w5 ", "w5")
    with pytest.raises(UsageError, match="width"):
        distill(model, CONDITIONS, PROMPTS, replace(SMALL, rank=33))
    with pytest.raises(SiteError, match="layer 9"):
        distill(model, CONDITIONS, PROMPTS, replace(SMALL, layers=(9,)))
    with pytest.raises(InputError, match="takes 128"):
        distill(model, Conditions("w5 " * 127), PROMPTS, SMALL)
    with pytest.raises(UsageError, match="steps"):
        replace(SMALL, steps=0)
    nothing = PlantedTeacher(model, Edits(model, unspread(Site(1)), 0, 0, start=0))
    with pytest.raises(InputError, match="does not change the model's texts"):
        Task.of(model, texts(model), nothing)


def test_half_precision_models_are_distilled_in_float32() -> None:
    model = tiny.wrapped(tiny.build("llama").to(torch.bfloat16), "half")
    vector = distill(model, CONDITIONS, PROMPTS, replace(SMALL, steps=20))
    assert all(tensor.dtype == np.float32 for tensor in vector.tensors.values())


@pytest.mark.parametrize("offloaded", [False, True])
def test_a_model_in_half_precision_that_is_spread_is_distilled(
    folder: Path, offloaded: bool
) -> None:
    accelerate = pytest.importorskip("accelerate")
    model = load(ModelSource(str(folder), dtype="bfloat16", device_map="auto"))
    if offloaded:  # a layer's weights are in memory only while it runs
        layer = model.network.model.layers[1]
        accelerate.cpu_offload(layer, execution_device=torch.device("cpu"))
        assert next(layer.parameters()).is_meta
    assert model.network.dtype == torch.bfloat16
    vector = distill(model, CONDITIONS, PROMPTS, replace(SMALL, steps=10, samples=16))
    assert vector.up is not None and vector.up.any()


@pytest.mark.parametrize(
    "conditions",
    [
        Conditions("w4 w7 w9\nw60 w3 w9\nw20 w11 w9\n"),  # examples
        Conditions("w5 w9 w33", baseline="w41 w7"),
        Conditions("w5 w9 w33", chat=True),
        Conditions("w5 w9 w33", baseline="w41 w7", chat=True),
    ],
)
def test_every_kind_of_condition_is_distilled(conditions: Conditions) -> None:
    model = tiny.chat_model("llama")
    vector = distill(model, conditions, PROMPTS, replace(SMALL, steps=10, samples=16))
    assert vector.metadata.contrast.negative == conditions.baseline
    assert (vector.metadata.read.chat is True) == conditions.chat
    before = beginnings(model, conditions, "w7")
    for ids, text in zip(before, (conditions.condition, conditions.baseline), strict=True):
        assert ids is not None
        words = [int(word[1:]) for word in text.split()]
        assert any(list(ids[start : start + len(words)]) == words for start in range(len(ids)))


def test_recovery_counts_texts_by_their_tokens() -> None:
    model = tiny.model("llama")
    teacher = PlantedTeacher(model, planted(model, 1, [Site(1)]))
    texts = lessons(model, 10)
    base = divergences(model, texts, teacher, None)
    in_ones = divergences(model, texts, teacher, None, batch_size=1)
    assert base == pytest.approx(in_ones, rel=1e-3)
    assert recovery(base, base).value == 0


def steer(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("models") / "tiny-llama")


def test_the_command_writes_a_file_that_the_others_read(folder: Path) -> None:
    Path("prompts.txt").write_text("w4 w7\nw60 w3\n")
    few = ("--steps", 20, "--samples", 32, "--held-out", 16, "--max-tokens", 12, "--rank", 2)
    result = steer(
        *("distill", "--condition", "w5 w9 w33", "-m", folder, "-o", "x.safetensors"),
        *("--prompts", "prompts.txt", "--layers", "all", *few),
    )
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert "held-out texts" in result.stdout
    assert "nats per token" in result.stdout
    shown = steer("show", "x.safetensors").stdout
    for fact in (
        "low-rank edit, rank 2",
        "'w5 w9 w33' distilled by gradient descent, over 32 texts",
        "recovery 0.",
    ):
        assert fact in shown
    assert steer("verify", "x.safetensors", "-m", folder).exit_code == 0
    assert "distill of 32" in steer("list", ".").stdout
    runs = [
        steer("apply", "w4 w7", "-m", folder, "-t", 0, "--max-tokens", 8, *vector).stdout
        for vector in ((), ("-v", "x.safetensors:0"), ("-v", "x.safetensors:4"))
    ]
    assert runs[0] == runs[1] != runs[2]
    share = steer("apply", "w4", "-m", folder, "-v", "x.safetensors:15%")
    assert (share.exit_code, share.stdout) == (1, "")
    assert "low-rank" in share.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--condition", "w5", "--scope", "prompt"), 2, "not a scope"),
        (("--condition", "w5", "--layers", "some"), 2, "not a list of layers"),
        (("--condition", "w5", "--rank", "-1"), 2, "--rank"),
        (("--condition", ""), 1, "the same"),
        (("--condition", "w5", "--chat"), 1, "no chat template"),
    ],
)
def test_the_command_refuses_what_means_nothing(
    folder: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    failed = steer("distill", "-m", folder, "-o", "x.safetensors", *words)
    assert (failed.exit_code, failed.stdout) == (code, ""), failed.output
    assert message in failed.stderr
    assert not Path("x.safetensors").exists()


def test_one_set_of_texts_serves_edits_of_any_rank() -> None:
    model = tiny.model("llama")
    task = Task.of(model, write(model, CONDITIONS, PROMPTS, SMALL))
    for changes in ({"layers": ()}, {}):
        alone, shared = distilled(**changes), fit(task, replace(SMALL, **changes))
        assert store.to_bytes(shared.sealed()) == store.to_bytes(alone.sealed())


def test_what_is_kept_is_what_would_be_written() -> None:
    model = tiny.model("llama")
    prompts = [f"w{number} w7" for number in range(10, 30)]
    # As many texts to learn from as to judge by, of numbers that are the same.
    settings = replace(SMALL, samples=20, held_out=16, max_tokens=6)
    kept = Journal(None)
    fresh, first, again = (
        write(model, CONDITIONS, prompts, settings, kept=journal) for journal in (None, kept, kept)
    )
    assert fresh == first == again


def test_what_a_teacher_remembers_is_what_it_would_say() -> None:
    model = tiny.model("llama")
    taught = lessons(model, 70)
    room = 4 * 64 * sum(lesson.n for lesson in taught[:50])
    some, none = Teacher(model, taught, budget=room), Teacher(model)
    torch.testing.assert_close(some(taught), none(taught), rtol=1e-4, atol=1e-5)
    assert torch.equal(some(taught[3:9]), Teacher(model, taught[:50])(taught[3:9]))


@pytest.mark.parametrize("stopped", [3, 25, 61])
def test_an_interrupted_descent_goes_on_from_its_last_validation(
    stopped: int, tmp_path: Path
) -> None:
    model = tiny.model("llama")
    task = Task.of(model, texts(model), PlantedTeacher(model, planted(model, 2, [Site(1)])))
    taken = 0

    def run(checkpoint: Checkpoint | None, until: int | None = None) -> tuple[Any, ...]:
        nonlocal taken
        taken = 0
        backward = task.backward

        def counted(*arguments: Any) -> None:
            nonlocal taken
            if taken == until:
                raise KeyboardInterrupt
            taken += 1
            backward(*arguments)

        edits = Edits(model, unspread(Site(1)), 3, seed=0, start=0)
        task.prepare(edits, silent)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Task, "backward", lambda self, *arguments: counted(*arguments))
            descended = descend(task, edits, Schedule(100, 0.02, 8, seed=0), checkpoint=checkpoint)
        return (*descended, [part.tolist() for part in edits.parameters])

    expected, n_whole = run(None), taken
    checkpoints = Checkpoints(tmp_path / "run")
    kept = checkpoints.checkpoint("a descent")
    with pytest.raises(KeyboardInterrupt):
        run(kept, stopped)
    assert run(kept) == expected
    assert n_whole > stopped
    assert taken == n_whole - stopped // 25 * 25
    assert run(kept) == expected and not taken, "what is done is not done again"
    assert run(checkpoints.checkpoint("another")) == expected and taken == n_whole
    checkpoints.finish()
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks")
def test_kill_9_at_any_moment_leaves_no_trace(tmp_path: Path) -> None:
    rounds = killing.rounds_of("killed_distill.py", tmp_path, 3)
    assert all(kept == sorted(kept) for kept in rounds), "what was written was lost"
    assert any(kept > 0 for log_likelihood in rounds for kept in log_likelihood), (
        "no run was killed in its midst"
    )
    expected = (tmp_path / "whole.safetensors").read_bytes()
    killed = (tmp_path / f"killed-{number}.safetensors" for number in range(3))
    assert all(run_killed.read_bytes() == expected for run_killed in killed)


@pytest.mark.parametrize("steps", [1, 25, 300])
@pytest.mark.parametrize("ended", [0.3, 0.5, 1.0])
def test_the_learning_rate_warms_up_stays_and_falls_to_nothing(steps: int, ended: float) -> None:
    schedule = Schedule(steps, 0.02, 8, seed=0)
    begins_to_fall = max(1, round(2 / 3 * ended * steps))
    end = min(steps, schedule.falling(begins_to_fall))
    before = [schedule.rate(step, steps) for step in range(begins_to_fall)]
    after = [schedule.rate(step, end) for step in range(begins_to_fall, end)]
    assert 0 < before[0] <= before[-1] <= max(before) <= 0.02
    assert after == sorted(after, reverse=True)
    assert all(0 < rate <= 0.02 for rate in after)
    assert steps < 25 or max(before) == pytest.approx(0.02)
    assert not after or after[-1] < 0.5 * max(before)


def test_a_run_that_gains_no_more_ends_early() -> None:
    model = tiny.model("llama")
    task = Task.of(model, texts(model), PlantedTeacher(model, planted(model, 0, [Site(1)])))
    steps: list[float | None] = []
    edits = Edits(model, unspread(Site(1)), 0, seed=0, start=0)
    stuck = replace(task, base=1e-6 * task.base)  # R cannot be above 0
    _, best_step = descend(stuck, edits, Schedule(100, 0.02, 8, seed=0), steps.append)
    assert best_step <= len(steps) < 100


def test_the_ceiling_of_the_last_layer_is_all_and_rises_from_the_first() -> None:
    """Past the last block nothing reads the condition any more."""
    model = load(ModelSource("pocket", device="cpu"))
    settings = DistillSettings(name="x", samples=8, held_out=8, max_tokens=12)
    texts = write(model, Conditions("[mood: joyful]"), ["One day", "The boat"], settings)
    ceilings = ceiling(Task.of(model, texts), range(model.n_layers))
    assert abs(ceilings[model.n_layers - 1].value - 1) < 1e-4
    assert ceilings[0].value < ceilings[model.n_layers - 1].value
