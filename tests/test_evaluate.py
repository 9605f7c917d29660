"""The table of `steer eval`: what each row has to show whatever the model is, and its command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import tiny
import torch
from conftest import make_vector
from test_cli import PAIRS, failed, steer
from transformers import BertConfig, BertForSequenceClassification

from steer.base.errors import InputError, UsageError
from steer.contrasts import heldout
from steer.contrasts.contrasts import Contrasts
from steer.contrasts.heldout import HeldOut
from steer.contrasts.passages import Passage
from steer.contrasts.prompts import training_messages
from steer.distillation.lessons import Conditions
from steer.evaluation.batches import Part, surprise
from steer.evaluation.cells import SteeredCell
from steer.evaluation.choice import CHAT_NATS, PLAIN_NATS
from steer.evaluation.evaluations import EvaluationRow, measure_rows
from steer.evaluation.scoring import added_nats
from steer.evaluation.task import Task, Variant, n_units, variants
from steer.evaluation.written import TextSettings, own_texts, pair_texts, write
from steer.measures.baselines import opposite, random_direction
from steer.measures.concepts import by_classifier, by_grammar, by_words, parse_concept
from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource
from steer.sharing import evidence
from steer.vectors import store

HELD_OUT = Contrasts(
    "pairs",
    tuple(Passage(f"w{i} w{i + 1} ", f"w{i + 5}") for i in range(20, 26)),
    tuple(Passage(f"w{i} w{i + 1} ", f"w{i}") for i in range(20, 26)),
)
WRITING = TextSettings(("w3 w4", "w9"), Conditions("w50 w51"), samples=6, max_tokens=8)


def measured(coefficient: float, held_out: Contrasts = HELD_OUT) -> dict[str, EvaluationRow]:
    """Rows by kind, of a random vector on a tiny model."""
    model = tiny.model("llama")
    task = Task(HeldOut(held_out), WRITING, judge=by_words("w7,w8"))
    units: list[int] = []
    rows = variants([tiny.steer(model, coefficient)], condition="w50 w51")
    observations = measure_rows(model, rows, task, lambda phase, n: units.append(n))
    assert sum(units) == n_units(task, rows)
    return {row.variant.kind: row for row in observations}


@pytest.fixture(scope="module")
def strong() -> dict[str, EvaluationRow]:
    return measured(4.0)


def test_the_ends_of_every_scale(strong: dict[str, EvaluationRow]) -> None:
    assert strong["unsteered"].measures["recovery"].value == 0
    assert strong["prompt"].measures["recovery"].value == pytest.approx(1)
    assert strong["vector"].measures["recovery"].value < 1
    for kind in ("vector", "opposite", "random", "prompt"):
        assert strong[kind].measures["kl"].value > 0
    for row in strong.values():
        for interval in row.measures.values():
            assert interval.low <= interval.value <= interval.high


def test_a_coefficient_of_0_changes_nothing() -> None:
    row = measured(0.0)["vector"]
    for name in ("preference", "right_way", "recovery", "kl", "extra_nats"):
        assert row.measures[name].value == pytest.approx(0, abs=1e-6), name
    assert row.shifts is not None
    assert not row.shifts.any()


def test_shifts_are_what_the_mean_is_of(strong: dict[str, EvaluationRow]) -> None:
    row = strong["vector"]
    assert row.shifts is not None
    assert len(row.shifts) == len(HELD_OUT.positive)
    assert row.measures["preference"].value == pytest.approx(row.shifts.mean())
    assert row.measures["right_way"].value == (row.shifts > 0).mean()


def test_the_matching_answer_is_asked_for_where_there_is_a_question(
    strong: dict[str, EvaluationRow],
) -> None:
    assert 0 < strong["unsteered"].measures["multiple_choice"].value < 1
    bare = Contrasts("pairs", (Passage("", "w3 w5"),) * 2, (Passage("", "w3 w6"),) * 2)
    assert "multiple_choice" not in measured(1.0, bare)["vector"].measures


def test_random_directions_are_as_long_and_point_elsewhere() -> None:
    model = tiny.model("llama")
    for case in (
        tiny.steer(model, 2, layers=(0, 2)),
        tiny.low_rank_steer(model, 2, layers=(0, 2)),
    ):
        original = case.vector
        turned = [random_direction(case, seed).vector for seed in range(3)]
        for vector in turned:
            for name, tensor in original.tensors.items():
                lengths = np.linalg.norm(tensor, axis=1)
                if name != "down":
                    np.testing.assert_allclose(
                        np.linalg.norm(vector.tensors[name], axis=1), lengths, rtol=1e-5
                    )
                    assert not np.allclose(vector.tensors[name], tensor)
        assert not np.allclose(turned[0].directions, turned[1].directions)
        assert opposite(opposite(case)) == case


def test_extra_nats_by_hand() -> None:
    base = torch.tensor([[[0.25, 0.75, 0.0], [0.5, 0.25, 0.25]]]).log()
    steered = torch.tensor([[[[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]]]).log()
    part = cast("Part", SimpleNamespace(base=base))
    first = 0.5 * np.log(4) + 0.5 * np.log(4 / 3)  # of what the model excludes nothing is written
    np.testing.assert_allclose(surprise(steered, part), [[[first, np.log(4)]]], rtol=1e-6)
    entropies = [0.25 * np.log(4) + 0.75 * np.log(4 / 3), 0.5 * np.log(2) + 0.5 * np.log(4)]
    np.testing.assert_allclose(surprise(base[None], part), [[entropies]], rtol=1e-6)
    # (3 + 5) / (2 + 2) - (1 + 2) / (1 + 3) nats a token; the third text has no partner.
    own = np.array([3.0, 5.0, 99.0]), np.array([2.0, 2.0, 1.0])
    assert added_nats(own, (np.array([1.0, 2.0]), np.array([1.0, 3.0]))).value == pytest.approx(
        1.25
    )


def test_concepts_by_words_and_grammar_by_hand(tmp_path: Path) -> None:
    assert by_words("glad, happy")(["I am HAPPY", "no", "gladly"]) == [(1, 1), (0, 1), (0, 1)]
    Path("words.txt").write_text("glad\n\nas it were\n")
    assert by_words("words.txt")(["as it were", "so"]) == [(1, 1), (0, 1)]
    assert by_grammar("sea")(["The beach.", "The harbour and the clearing."]) == [(1, 1), (1, 2)]
    with pytest.raises(UsageError, match="has no 'sadness'"):
        by_grammar("sadness")
    with pytest.raises(InputError, match="no words"):
        by_words(" , ")
    for wrong in ("words", "words:", "mood:joyful"):
        with pytest.raises(UsageError, match="is not a concept"):
            parse_concept(wrong)


def test_a_classifier_gives_the_rate_of_its_label() -> None:
    sides = lambda texts: [{"yes": len(t) / 10, "no": 1 - len(t) / 10} for t in texts]  # noqa: E731
    assert by_classifier(sides, "yes")(["abc", " ", "a"]) == [(0.3, 1), (0, 0), (0.1, 1)]
    with pytest.raises(UsageError, match="no label 'maybe'"):
        by_classifier(sides, "maybe")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture
def joyful(folder: Path) -> str:
    Path("vectors").mkdir()
    Path("joyful.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    held = [{"positive": f"w{i} w{i + 3}", "negative": f"w{i} w{i + 7}"} for i in range(30, 36)]
    Path("held.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in held))
    assert steer("extract", "joyful.jsonl", "-m", folder).exit_code == 0
    return "joyful"


def run(folder: Path, *words: object) -> Any:
    few = ["--samples", 4, "--max-tokens", 6]
    return steer("eval", "-m", folder, "-v", "joyful:2@1", *few, *words)


def test_the_table_its_json_and_the_command_that_makes_them(joyful: str, folder: Path) -> None:
    concept = ["--condition", "w50", "--concept", "words:w7"]
    result = run(folder, "--texts", "held.jsonl", *concept, "-o", "e.json")
    assert result.exit_code == 0, result.stderr
    for text in ("preference", "recovery", "random (5 seeds)", "condition as prompt", "6 pairs"):
        assert text in result.stdout
    report = json.loads(Path("e.json").read_text())
    assert [row["kind"] for row in report["rows"]] == [
        "unsteered", "vector", "opposite", "random", "prompt",
    ]  # fmt: skip
    assert report["command"] in result.stdout
    again = steer(*report["command"].split()[1:], "--force", "--json")
    assert json.loads(again.stdout)["rows"] == report["rows"]


def test_the_command_is_told_without_passwords(joyful: str, folder: Path) -> None:
    concept = ["--concept", "words:w7", "--judge-url", "http://me:se%40cret@127.0.0.1:9/v1"]
    result = run(folder, "--texts", "held.jsonl", *concept, "-o", "e.json")
    assert result.exit_code == 0, result.stderr
    for text in (result.output, Path("e.json").read_text()):
        assert "cret" not in text and "http://me@127.0.0.1:9/v1" in text


def test_vectors_stand_side_by_side(joyful: str, folder: Path) -> None:
    result = run(folder, "-v", "joyful:1@0", "--texts", "held.jsonl", "--json")
    kinds = [(row["kind"], row["vector"]) for row in json.loads(result.stdout)["rows"]]
    assert kinds.count(("vector", "joyful")) == 2
    assert len(kinds) == 1 + 2 * 3


def test_of_two_vectors_of_one_name_none_has_the_numbers_of_the_other(
    joyful: str, folder: Path
) -> None:
    Path("other").mkdir()
    other = "other/joyful.safetensors"
    assert steer("extract", "joyful.jsonl", "-m", folder, "--method", "lda", "-o", other)
    result = run(folder, "-v", f"./{other}:1@0", "--texts", "held.jsonl", "-o", "e.json")
    assert result.exit_code == 0, result.stderr
    hashes = {store.read(Path(path)).sha256 for path in ("vectors/joyful.safetensors", other)}
    evaluations = evidence.read(Path("e.json"))
    assert set(evaluations) == hashes
    labels = [row[0] for evaluated in evaluations.values() for row in evaluated.rows]
    # Each has the unsteered row, and of its own the vector, the opposite and random directions.
    assert len(labels) == 2 * 4 and len(set(labels)) == 7


def test_a_prompt_that_stands_twice_counts_once(joyful: str, folder: Path) -> None:
    """Its texts would be the same ones, and the intervals of twice as many."""
    rows = []
    for lines in ("w4 w9\nw4 w9\nw7\n", "w4 w9\nw7\n"):
        Path("prompts.txt").write_text(lines)
        result = run(folder, "--condition", "w50", "--prompts", "prompts.txt", "--json")
        rows.append(json.loads(result.stdout)["rows"])
    assert rows[0] == rows[1]


def test_random_directions_are_as_unsure_as_they_differ() -> None:
    model = tiny.model("llama")
    turned = [SteeredCell((random_direction(tiny.steer(model, 8.0), seed),)) for seed in range(5)]
    alone = [Variant(str(seed), "vector", (cell,)) for seed, cell in enumerate(turned)]
    together = Variant("all", "random", tuple(turned))
    writing = replace(WRITING, samples=30)
    task = Task(HeldOut(HELD_OUT), writing, judge=by_words("w7,w8,w9,w10,w11"))
    _, both, *each = measure_rows(model, [variants([], condition=None)[0], together, *alone], task)
    for name in ("preference", "recovery", "kl"):  # on the same items
        _, low, *_, high, _ = sorted(row.measures[name].value for row in each)
        interval = both.measures[name]
        assert interval.low < low < interval.value < high < interval.high, name
    pooled = 30 * both.measures["concept"].value
    assert pooled == pytest.approx(round(pooled))
    assert both.shifts == pytest.approx(np.mean([row.shifts for row in each], 0))


@pytest.mark.parametrize(("words", "nats"), [((), PLAIN_NATS), (("--chat",), CHAT_NATS)])
def test_answers_in_a_chat_may_cost_more(
    tmp_path: Path, words: tuple[str, ...], nats: float
) -> None:
    folder = tiny.save(tmp_path / "tiny-chat")
    (folder / "chat_template.jinja").write_text(tiny.CHAT_TEMPLATE)
    store.write(Path("joyful.safetensors"), tiny.vector(load(ModelSource(str(folder)))))
    few = ["--samples", 4, "--max-tokens", 4, "--layers", 1, "--coefficients", 1, "--json"]
    result = steer(
        "sweep", "-v", "./joyful.safetensors", "-m", folder, "--condition", "w50 w51", *words, *few
    )
    assert json.loads(result.stdout)["budget"]["nats"] == nats


def test_what_an_edit_learned_is_not_asked_where_it_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by default: its answers to those questions flatter it."""
    chatting = tiny.save(tmp_path / "tiny-chat")
    (chatting / "chat_template.jinja").write_text(tiny.CHAT_TEMPLATE)
    store.write(Path("joyful.safetensors"), tiny.vector(load(ModelSource(str(chatting)))))
    requests: set[str] = set()
    chat = Model.chat

    def recording(model: Model, prompt: str, *before: Any) -> str:
        requests.add(prompt)
        return chat(model, prompt, *before)

    monkeypatch.setattr(Model, "chat", recording)
    few = ["--chat", "--condition", "w50 w51", "-m", chatting, "--samples", 24, "--max-tokens", 4]
    options = ["-v", "./joyful.safetensors"]
    rows_found = []
    for words in (
        ["distill", "--steps", 1, "--held-out", 8, "--layers", 1, "-o", "x.safetensors"],
        ["eval", *options],
        ["sweep", *options, "--layers", 1, "--coefficients", 1],
    ):
        requests.clear()
        steer(*words, *few)
        rows_found.append(set(requests))
    learned, *measured = rows_found
    assert (
        len(learned) == len(training_messages()) + 12
    )  # and unrelated questions, to which the KL is reported
    for questions in measured:
        assert len(questions) == 24
        assert not questions & learned


def row(result: Any, kind: str = "vector") -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    return next(entry for entry in json.loads(result.stdout)["rows"] if entry["kind"] == kind)


def test_ops_and_gates_are_measured_as_what_they_are(joyful: str, folder: Path) -> None:
    """An ablation is no addition, has no opposite, and behind a closed gate it is nothing."""
    pairs = [
        json.loads(line) | {"prompt": "w3 w4 "}
        for line in Path("held.jsonl").read_text().splitlines()
    ]
    Path("asked.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    words = ["eval", "-m", folder, "--texts", "asked.jsonl", "--samples", 4, "--max-tokens", 6]
    words += ["--json"]
    added, removed = (steer(*words, "-v", f"joyful:{op}@1") for op in ("1", "ablate"))
    assert row(added)["shifts"] != row(removed)["shifts"]
    assert "opposite" in added.stdout
    assert "opposite" not in removed.stdout
    removed_by = [*words, "-v", "joyful:ablate@1", "--when"]
    closed = row(steer(*removed_by, "joyful@0>1e6"))
    for name in ("preference", "kl", "extra_nats"):
        assert closed[name]["value"] == pytest.approx(0, abs=1e-6)
    opened = row(steer(*removed_by, "joyful@0<1e6"))
    assert opened["shifts"] == pytest.approx(row(removed)["shifts"])
    failed(run(folder, "--texts", "held.jsonl", "--when", "joyful>0"), 1, "a text has none")


def test_a_steer_that_changes_nothing_is_no_evidence(joyful: str, folder: Path) -> None:
    for coefficient, idle in (("1e-60", True), ("1", False)):
        words = ["eval", "-m", folder, "--texts", "held.jsonl", "--samples", 4, "--max-tokens", 6]
        words += ["-v", f"joyful:{coefficient}@1", "-o", "e.json", "--force"]
        steer(*words)
        if not Path("e.json").exists():  # refused where it was measured
            continue
        if idle:
            with pytest.raises(InputError, match="changed nothing in it"):
                evidence.read(Path("e.json"))
        else:
            assert evidence.read(Path("e.json"))


def test_fields_have_the_names_of_the_mapping(joyful: str, folder: Path) -> None:
    rows = [{"good": f"w{i} w{i + 3}", "bad": f"w{i} w{i + 7}"} for i in range(30, 36)]
    Path("named.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mapped = ["--map", "positive=good", "--map", "negative=bad", "--json"]
    named, plain = (
        run(folder, "--texts", "named.jsonl", *mapped),
        run(folder, "--texts", "held.jsonl", "--json"),
    )
    assert row(named)["shifts"] == row(plain)["shifts"]
    failed(run(folder, "--texts", "named.jsonl"), 1, "not a contrast; it has the fields bad, good")
    failed(run(folder, "--texts", "named.jsonl", "--map", "good=positive"), 2, "maps no field")


def test_what_cannot_be_measured_says_so(joyful: str, folder: Path) -> None:
    failed(run(folder), 1, "no data to measure an effect on", "--texts")
    failed(run(folder, "--texts", "joyful.jsonl"), 1, "made from 24 of these 24", "allow-overlap")
    Path("texts.jsonl").write_text('{"text": "w3 w4"}\n')
    failed(run(folder, "--texts", "texts.jsonl"), 1, "need a condition to compare with")
    failed(run(folder, "--texts", "none.jsonl"), 1, "No such file")
    failed(run(folder, "--concept", "mood:x"), 2, "not a concept")
    failed(run(folder, "--concept", "classifier:nowhere"), 2, "needs a label")
    failed(run(folder, "--condition", "x", "--samples", "1"), 2, "--samples")
    failed(run(folder, "--texts", "held.jsonl", "-o", "held.jsonl"), 1, "exists")
    Path("long.jsonl").write_text(json.dumps({"positive": "w3 " * 200, "negative": "w4"}))
    failed(run(folder, "--texts", "long.jsonl"), 1, "held-out text 1 has 201 tokens")
    allowed = run(folder, "--texts", "joyful.jsonl", "--allow-overlap")
    assert allowed.exit_code == 0
    assert "warning: vector 'joyful' was made from 24" in allowed.stderr


def test_a_vector_of_conditions_knows_its_condition(folder: Path) -> None:
    Path("vectors").mkdir()
    Path("texts.jsonl").write_text("".join(f'"w{i} w{i + 3}"\n' for i in range(3, 9)))
    Path("others.jsonl").write_text("".join(f'"w{i} w{i + 3} w9"\n' for i in range(13, 19)))
    words = ["--positive", "w50 w51", "--texts", "texts.jsonl", "-o", "vectors/joyful.safetensors"]
    assert steer("extract", "-m", folder, *words).exit_code == 0
    result = run(folder, "--json")
    assert json.loads(result.stdout)["condition"] == "w50 w51"
    assert run(folder, "--condition", "").exit_code == 1
    assert run(folder, "--texts", "others.jsonl").exit_code == 0
    failed(run(folder, "--texts", "texts.jsonl"), 1, "made from 6 of these 6")


def test_a_classifier_from_a_folder(joyful: str, folder: Path) -> None:
    config = BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=12, id2label={0: "no", 1: "yes"},
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained("judge")
    tiny.tokenizer().save_pretrained("judge")
    result = run(folder, "--concept", "classifier:./judge=yes", "--json")
    assert result.exit_code == 0, result.stderr
    for row in json.loads(result.stdout)["rows"]:
        assert 0 < row["concept"]["value"] < 1
    failed(run(folder, "--concept", f"classifier:{folder}=yes"), 1, "not a classifier")
    failed(run(folder, "--concept", "classifier:./judge=maybe"), 2, "it has no and yes")


def test_old_files_are_measured_with_a_warning(joyful: str, folder: Path) -> None:
    vector = store.read(Path("vectors/joyful.safetensors"))
    contrast = tiny.msgspec.structs.replace(vector.metadata.contrast, items=None)
    store.write(
        Path("vectors/joyful.safetensors"), tiny.renamed(vector, contrast=contrast), force=True
    )
    result = run(folder, "--texts", "held.jsonl")
    assert result.exit_code == 0
    assert "does not record which texts" in result.stderr


def test_a_condition_of_a_chat_stays_a_system_message(tmp_path: Path) -> None:
    model = tiny.chat_model("llama")
    held_out = heldout.read(
        [("x:1", {"prompt": "w3", "positive": "w5", "negative": "w6"})], chat=True
    )
    assert held_out.pairs is not None
    plain = pair_texts(model, held_out.pairs, None)
    conditioned = pair_texts(model, held_out.pairs, "w40")
    before = model.encode(model.chat("w3"), special=False)
    system = model.encode(model.chat("w3", "w40"), special=False)
    for plain_text, both, ending in zip(plain, conditioned, (5, 6), strict=True):
        assert list(plain_text.ids) == [*before, ending]
        assert (plain_text.start, plain_text.scored) == (len(before), (len(before),))
        assert list(both.conditioned) == [*system, ending]


@pytest.mark.parametrize("baseline", ["", "w41"])
def test_own_texts_are_scored_where_the_model_wrote_them(baseline: str) -> None:
    """So that scopes and schedules count from where they do in generation."""
    model = tiny.model("llama")
    writing = TextSettings(
        ("w3 w4", "w9"), Conditions("w50 w51", baseline), samples=4, max_tokens=6
    )
    written = write(model, writing, ())
    for generated, text in zip(written, own_texts(model, writing, written), strict=True):
        assert text.ids == generated.ids
        assert text.start == len(generated.ids) - generated.n
        n = len(text.scored)
        assert text.conditioned[-n:] == text.ids[-n:]
        assert text.conditioned[:3] == (1, 50, 51)


def test_a_vector_of_another_model_is_refused(folder: Path) -> None:
    store.write(Path("joyful.safetensors"), make_vector())
    words = ["eval", "-m", folder, "-v", "./joyful.safetensors", "--condition", "w5"]
    failed(steer(*words), 1, "was made on tiny")
