"""`steer eval --lm-eval`: the harness asks our model what it asks its own, and gets the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from conftest import make_vector
from test_cli import failed, steer

from steer.distillation.lessons import Conditions
from steer.evaluation.cells import UNSTEERED, SteeredCell
from steer.steering.operation import Coefficient
from steer.steering.scope import EVERYWHERE
from steer.steering.steers import Steer
from steer.vectors import store

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

CONTEXTS = ["w3 w4 w5", "w6", "", "w7 w8 w9 w10 w11", "w3 "]
ENDINGS = [" w20 w21", " w22", "w23 w24", " w25 w26 w27", "w28"]
CHOICES = """task: choices
dataset_path: json
dataset_kwargs: {data_files: choices.jsonl}
test_split: train
output_type: multiple_choice
doc_to_text: "{{start}}"
doc_to_choice: ["w20 w21", "w22 w23"]
doc_to_target: 0
metric_list: [{metric: acc}]
"""
WRITTEN = """task: written
dataset_path: json
dataset_kwargs: {data_files: choices.jsonl}
test_split: train
output_type: generate_until
doc_to_text: "{{start}}"
doc_to_target: "w20"
generation_kwargs: {until: ["w9"], max_gen_toks: 4}
metric_list: [{metric: exact_match}]
"""


def answers_of(kind: str, arguments: list[tuple[str, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [
        Instance(request_type=kind, doc={}, arguments=argument, idx=index)  # type: ignore[arg-type]
        for index, argument in enumerate(arguments)
    ]


def steered(coefficient: float) -> SteeredCell:
    model = tiny.model("llama")
    vector = make_vector(model.identity, layers=(1,))
    return SteeredCell((Steer(vector, Coefficient(coefficient), (1,), EVERYWHERE),))


def test_unsteered_it_gets_what_its_own_model_gives() -> None:
    from lm_eval.models.huggingface import HFLM

    from steer.evaluation.harness import HarnessModel

    model = tiny.model("llama")
    theirs = HFLM(pretrained=model.network, tokenizer=model.tokenizer, device="cpu", batch_size=2)
    endings = answers_of("loglikelihood", list(zip(CONTEXTS, ENDINGS, strict=True)))
    complete = answers_of("loglikelihood_rolling", [("w3 w4 w5 w6",), ("w7 w8",)])
    for cell in (UNSTEERED, steered(0.0)):
        ours = HarnessModel(model, cell, "", special=True)
        for mine, other in zip(
            ours.loglikelihood(endings), theirs.loglikelihood(endings), strict=True
        ):
            assert mine == (pytest.approx(other[0], abs=1e-4), other[1])
        rolled = theirs.loglikelihood_rolling(complete)
        assert ours.loglikelihood_rolling(complete) == pytest.approx(rolled, abs=1e-3)
    moved = HarnessModel(model, steered(3.0), "", special=True).loglikelihood(endings)
    assert [value for value, _ in moved] != pytest.approx(
        [result for result, _ in theirs.loglikelihood(endings)]
    )


def test_the_condition_stands_before_every_context() -> None:
    from steer.evaluation.harness import HarnessModel

    model = tiny.model("llama")
    plain, likelihood = (
        HarnessModel(model, UNSTEERED, before, special=True) for before in ("", "w40 w41")
    )
    after = answers_of("loglikelihood", [("w40 w41 w3 w4", " w20 w21")])
    assert likelihood.loglikelihood(answers_of("loglikelihood", [("w3 w4", " w20 w21")])) == (
        plain.loglikelihood(after)
    )
    [long] = plain.loglikelihood_rolling(answers_of("loglikelihood_rolling", [("w7 w8 " * 200,)]))
    assert -400 * 10 < long < -400
    [alone] = plain.loglikelihood(answers_of("loglikelihood", [("w40 w41", " w20 w21")]))
    rolled = likelihood.loglikelihood_rolling(answers_of("loglikelihood_rolling", [("w20 w21",)]))
    assert rolled == [pytest.approx(alone[0], abs=1e-4)]


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"start": f"w{number} w{number + 1}"} for number in range(30, 36)]
    Path("choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("choices.yaml").write_text(CHOICES)
    Path("written.yaml").write_text(WRITTEN)
    return ["choices.yaml", "written.yaml"]


def test_tasks_run_under_every_kind_of_cell(tasks: list[str]) -> None:
    from steer.evaluation import harness

    model, loaded = tiny.model("llama"), harness.load(tasks)
    conditions = Conditions("w40 w41", "", False)
    scores = {
        name: harness.run(model, loaded, cell, conditions, 5)
        for name, cell in (("unsteered", ()), ("zero", steered(0.0)), ("prompt", None))
    }
    assert scores["zero"] == scores["unsteered"]
    for metrics in scores.values():
        assert set(metrics) == {"choices acc", "written exact_match"}
        assert all(
            0 <= metric.value <= 1 and metric.low <= metric.value for metric in metrics.values()
        )


def test_the_table_has_them_and_what_cannot_be_says_so(
    tasks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.save(tmp_path / "tiny-llama")
    pairs = [{"positive": f"w{n} w{n + 1}", "negative": f"w{n} w{n + 2}"} for n in range(3, 15)]
    Path("p.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    assert steer("extract", "p.jsonl", "-m", folder, "-o", "x.safetensors").exit_code == 0
    assert store.read(Path("x.safetensors"))
    words = ["eval", "-v", "./x.safetensors:1@1", "-m", folder, "--concept", "words:w3"]
    few = ["--samples", 2, "--max-tokens", 4]
    result = steer(*words, *few, "--lm-eval", "choices.yaml", "-o", "x.json")
    assert result.exit_code == 0, result.stderr
    assert "choices acc" in result.stdout
    kinds = {row["kind"]: row["lm_eval"] for row in json.loads(Path("x.json").read_text())["rows"]}
    assert set(kinds["unsteered"]) == set(kinds["vector"]) == {"choices acc"}
    assert kinds["random"] == {}
    failed(steer(*words, "--lm-eval", "nothing.yaml"), 1, "cannot load the task nothing.yaml")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    extra = "pip install 'steer-activations[lm-eval]'"
    failed(steer(*words, "--lm-eval", "choices.yaml"), 2, extra)
