"""The strength that a chat vector starts with, and the samples that show it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tiny
from conftest import make_vector
from typer.testing import CliRunner

import steer
from steer.cli.main import app
from steer.evaluation import calibration
from steer.evaluation.calibration import STRENGTHS, Trial, best_trial, calibrate
from steer.evaluation.sweep_grid import grid_of
from steer.generate import strength
from steer.generate.strength import middle_layers
from steer.library.models import Model
from steer.measures.grids import thinned
from steer.steering.operation import Coefficient
from steer.steering.spec import SteerSpec
from steer.steering.steers import resolve
from steer.vectors import store
from steer.vectors.provenance import Read
from steer.vectors.vector import SteeringVector

QUESTIONS = ("w9 w10", "w11 w12 w13")


@pytest.fixture(scope="module")
def chat() -> Model:
    return Model(tiny.chat_model("llama"))


def pairs(n: int = 12) -> list[dict[str, str]]:
    """Answers that differ in their first word."""
    return [
        {"prompt": f"w{20 + i}", "positive": f"w5 w{30 + i}", "negative": f"w7 w{30 + i}"}
        for i in range(n)
    ]


def chat_vector(model: Model, layers: tuple[int, ...]) -> SteeringVector:
    return tiny.renamed(
        tiny.vector(model.inner, layers=layers), read=Read(positions="mean", chat=True)
    )


def test_strength_0_is_the_baseline_and_strength_is_shared_among_the_layers(chat: Model) -> None:
    vector = chat_vector(chat, (0, 1))
    words = {"layers": (0, 1), "questions": QUESTIONS, "max_tokens": 6}
    calibration = calibrate(chat.inner, vector, strengths=(0.0, 3.0), **words)
    nothing, strong = calibration.trials
    assert nothing.answers == calibration.unsteered
    assert (nothing.shift, nothing.extra_nats) == (0, 0)
    assert nothing.coherent
    assert strong.coefficient == 3 / 2
    assert strong.shift != 0 and strong.answers != calibration.unsteered


def test_what_is_recommended_is_a_trial_and_the_numbers_are_left_alone(chat: Model) -> None:
    vector = chat_vector(chat, (0, 1))
    calibration = calibrate(chat.inner, vector, questions=QUESTIONS, max_tokens=6)
    recommended = calibration.vector.metadata.recommended
    assert recommended.layers == middle_layers(vector)
    assert recommended.coefficient in [trial.coefficient for trial in calibration.trials]
    if calibration.chosen is not None:
        assert recommended.coefficient == calibration.chosen.coefficient
    assert np.array_equal(calibration.vector.directions, vector.directions)
    again = calibrate(chat.inner, vector, questions=QUESTIONS, max_tokens=6)
    assert again.trials == calibration.trials


@pytest.mark.parametrize("limit", [0.0, *STRENGTHS])
def test_the_strongest_before_the_first_that_falls_apart_is_chosen(limit: float) -> None:
    trials = [
        Trial(strength, strength, 0.1, 0.0, 1.0, strength <= limit, ()) for strength in STRENGTHS
    ]
    trials.append(Trial(9, 9, 0.1, 0.0, 1.0, True, ()))  # what repeats one word costs little
    best = best_trial(trials)
    assert (best.strength if best else 0.0) == (limit if limit < STRENGTHS[-1] else 9)
    still = [replace(trial, shift=0.0) for trial in trials]
    assert best_trial(still) is None


def test_the_middle_is_of_the_model_and_a_few_layers_are_all_meant(chat: Model) -> None:
    deep = msgspec.structs.replace(chat.inner.identity, n_layers=10)
    assert middle_layers(make_vector(deep, layers=(0, 9))) == (0, 9)
    low, high = strength.MIDDLE
    middle = tuple(layer for layer in range(10) if 10 * low <= layer < 10 * high)
    assert middle_layers(make_vector(deep, layers=tuple(range(10)))) == middle


def test_a_sweep_holds_the_calibrated_layers_together_against_each_alone() -> None:
    deep = msgspec.structs.replace(make_vector().metadata.model, n_layers=20)
    vector = make_vector(deep, layers=tuple(range(20)))
    plain = grid_of(vector)
    assert [row.layers for row in plain.rows] == [(layer,) for layer in range(20)]
    recommended = msgspec.structs.replace(
        vector.metadata.recommended, layers=(9, 10, 11), coefficient=0.25, scope="response"
    )
    calibrated = tiny.renamed(vector, recommended=recommended)
    grid = grid_of(calibrated)
    *alone, together = grid.rows
    assert [row.layers for row in alone] == [row.layers for row in plain.rows]
    assert together.layers == (9, 10, 11)
    assert Coefficient(0.25) in together.coefficients
    assert grid.n_columns == len(together.coefficients)
    column = together.coefficients.index(Coefficient(0.25))
    assert together.steer(column) == resolve(SteerSpec("calm"), calibrated)
    assert thinned(grid, 6).rows[-1].layers == (9, 10, 11)
    assert len(thinned(grid, 6).rows) == 7
    for options in ({"layers": "3-5"}, {"coefficients": "5%,10%"}, {"together": True}):
        assert len({row.layers for row in grid_of(calibrated, **options).rows} & {(9, 10, 11)}) == 0


def test_answers_of_a_chat_are_calibrated_and_plain_texts_are_not(
    chat: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def marked(*_: object, **__: object) -> object:
        raise AssertionError("calibrated")

    monkeypatch.setattr(calibration, "calibrate", marked)
    steer.extract(chat, pairs(), chat=True, calibrate=False)
    steer.extract(chat, [{"positive": "w5 w6", "negative": "w7 w8"}])
    user = [{"text": "w5 w6", "label": 1}, {"text": "w7 w8", "label": 0}]
    steer.extract(chat, user, chat=True)
    with pytest.raises(AssertionError, match="calibrated"):
        steer.extract(chat, pairs(), chat=True)


def test_make_shows_what_v_name_does_and_its_opposite(
    chat: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    short(monkeypatch)
    sampled = steer.make(chat, pairs(), chat=True, name="w", prompts=QUESTIONS)
    vector = steer.Vector(sampled.vector)
    texts = {str(sample.spec): sample.texts for sample in sampled.samples}
    words = {"chat": True, "temperature": 0, "max_tokens": 40, "allow_idle": True}
    for spec, steers in {
        "None": None,
        "w": vector,
        "w:-1": vector(-1),
        "w:1.5": vector(1.5),
    }.items():
        written = chat.generate_batch(list(QUESTIONS), steers, **words)
        assert texts[spec] == tuple(map(str, written)), spec
    assert json.loads(json.dumps(sampled.to_dict()))["samples"][0]["steer"] == "w:-1"


def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short answers, which do for what is tested here."""
    monkeypatch.setattr(calibration, "calibrate", partial_of(calibration.calibrate, max_tokens=5))


def partial_of(function: Callable[..., object], **settings: object) -> Callable[..., object]:
    return lambda *words, **options: function(*words, **(settings | options))


def test_extract_and_make_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short(monkeypatch)
    folder = tiny.save(tmp_path / "model")
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = tiny.CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs()))

    def run(*words: object) -> str:
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        return result.stdout

    common = ("pairs.jsonl", "--chat", "-m", folder)
    report = json.loads(run("extract", *common, "-o", "a.safetensors", "--json"))
    run("extract", *common, "-o", "b.safetensors", "--no-calibrate")
    summary = json.loads(run("make", "pairs.jsonl", "-m", folder, "-o", "c", "--json"))
    typed = Path("pairs.jsonl").read_text()
    piped = CliRunner().invoke(
        app, ["make", "-", "-m", str(folder), "-o", "d", "--name", "c"], input=typed
    )
    assert piped.exit_code == 0, piped.output
    first, plain, third = (store.read(Path(f"{name}.safetensors")) for name in "abc")
    best = first.metadata.recommended
    assert best.coefficient in [trial["coefficient"] for trial in report["calibration"]]
    assert plain.metadata.recommended.coefficient == 1
    assert third.metadata.recommended == best
    assert summary["samples"][0]["steer"] == "c.safetensors:-1"
    assert np.array_equal(first.directions, plain.directions)
    assert replace(first, metadata=plain.metadata).sha256 == plain.sha256
