"""A run goes on only with its own numbers: whatever they depend on is in the one key."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tiny
import torch
from recorded import pairs
from test_cli import folder, steer  # noqa: F401  (a fixture)

from steer.contrasts.heldout import HeldOut
from steer.distillation.lessons import Conditions
from steer.distillation.settings import DistillSettings
from steer.distillation.texts import journal as lessons_journal
from steer.evaluation.bench import Bench
from steer.evaluation.bench import journal as sweep_journal
from steer.evaluation.task import Task, variants
from steer.evaluation.task import journal as evaluation_journal
from steer.evaluation.written import TextSettings
from steer.extraction import ReadSettings, plan
from steer.measures.grids import Grid
from steer.models.model import Model
from steer.resuming import journal, run_key
from steer.vectors.vector import SteeringVector


def fresh(dtype: torch.dtype = torch.float32) -> Model:
    model = tiny.wrapped(tiny.build("llama").to(dtype), "tiny")
    model.tokenizer.chat_template = tiny.CHAT_TEMPLATE
    return model


def one_weight(model: Model) -> Model:
    """One number of one weight moved by a bit, where the fingerprint does not look."""
    weight = model.network.get_parameter("model.layers.1.mlp.up_proj.weight")
    weight.view(torch.int32).view(-1)[3] += 1
    return model


def a_buffer(model: Model) -> Model:
    next(model.network.buffers()).add_(1)
    return model


def tokenizer_rules(model: Model) -> Model:
    """The same vocabulary, and other ids for a text."""
    model.tokenizer.backend_tokenizer.post_processor = None
    return model


def template(model: Model) -> Model:
    model.tokenizer.chat_template += " "
    return model


def configuration(model: Model) -> Model:
    model.network.config.rope_theta = 123.0
    model.network.config.custom = 1
    return model


def end_of_text(model: Model) -> Model:
    model.network.generation_config.eos_token_id = 7
    return model


def name(model: Model) -> Model:
    return dataclasses.replace(model, identity=msgspec.structs.replace(model.identity, id="other"))


CHANGES = [
    one_weight, a_buffer, tokenizer_rules, template, configuration, end_of_text, name,
]  # fmt: skip

WRITING = TextSettings(("w4",))
RUNS: dict[str, Callable[[Model], str]] = {
    "eval": lambda model: str(evaluation_journal(model, [], Task(HeldOut(), WRITING), []).path),
    "sweep": lambda model: str(
        sweep_journal(model, Grid(()), Bench(model, "recovery", [], [], [])).path
    ),
    "distill": lambda model: str(
        lessons_journal(model, Conditions("w5"), ["w4"], DistillSettings("x")).path
    ),
    "suite": lambda model: str(journal(model, "suites", ["text"]).path),
    "extract": lambda model: str(plan(model, pairs(("w3", "w4")), ReadSettings()).recording.run),
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_whatever_changes_in_a_model_is_other_work(
    run: str, change: Callable[[Model], Model]
) -> None:
    assert RUNS[run](fresh()) == RUNS[run](fresh())
    assert RUNS[run](change(fresh())) != RUNS[run](fresh())


@pytest.mark.parametrize("run", RUNS)
def test_another_precision_is_other_work(run: str) -> None:
    assert RUNS[run](fresh(torch.bfloat16)) != RUNS[run](fresh())


def test_the_fingerprint_alone_would_not_have_told() -> None:
    assert one_weight(fresh()).identity == fresh().identity


def test_padding_that_a_call_leaves_behind_changes_nothing() -> None:
    model = fresh()
    before = run_key(model)
    model.tokenizer(["w3 w4", "w5"], padding=True)
    assert run_key(model) == before


def test_every_argument_counts() -> None:
    model = fresh()
    base: dict[str, Any] = {
        "prompts": ("w4",), "samples": 4, "max_tokens": 3, "seed": 0, "chat": False,
    }  # fmt: skip
    others: list[dict[str, Any]] = [
        {"prompts": ("w5",)}, {"samples": 5}, {"max_tokens": 4}, {"seed": 1}, {"chat": True},
        {"conditions": Conditions("w6")}, {"first": 7},
    ]  # fmt: skip
    assert {field.name for field in dataclasses.fields(TextSettings)} == {
        name for other in others for name in other
    }, "a new argument has to be tried too"
    paths = {
        evaluation_journal(model, [], Task(HeldOut(), TextSettings(**(base | other))), []).path
        for other in [{}, *others]
    }
    assert len(paths) == 1 + len(others)
    engines = {evaluation_journal(model, [], Task(HeldOut(), WRITING), [e]).path for e in "ab"}
    assert len(engines) == 2


def test_a_vector_that_was_never_saved_is_known_by_its_numbers() -> None:
    model = fresh()
    paths = set()
    for seed in range(2):
        steered = tiny.steer(model, seed=seed)
        unsaved = msgspec.structs.replace(steered.vector.metadata, sha256="")
        for scale in (1.0, 2.0):
            vector = SteeringVector(unsaved, np.float32(scale) * steered.vector.directions)
            rows = variants([dataclasses.replace(steered, vector=vector)], condition=None)
            paths.add(evaluation_journal(model, rows, Task(HeldOut(), WRITING), []).path)
    assert len(paths) == 4


def test_a_recording_that_other_weights_began_begins_anew(tmp_path: Path) -> None:
    from steer.extraction import record_contrasts
    from steer.fitting.activations import resume
    from steer.workers import LocalWorker

    before, after = fresh(), one_weight(fresh())
    plans = [plan(key, pairs(("w3", "w4")), ReadSettings()) for key in (before, after)]
    with resume(tmp_path / "a", plans[0].recording) as begun:
        begun.put([0], np.ones((1, 3, 32), np.float32), np.ones((1, 3), np.float32))
    for path in ("a", "b"):
        with record_contrasts(LocalWorker(after), plans[1], tmp_path / path):
            pass
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
