"""`steer suite`: methods beside the prompt, from the same texts, measured on others."""

from __future__ import annotations

import json
import multiprocessing
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tiny
from test_cli import failed, steer

from steer.base.errors import SteerError, UsageError
from steer.evaluation import processes, subjects, suites
from steer.evaluation.suites import summary
from steer.evaluation.written import TextSettings, write
from steer.measures import grids
from steer.models.source import ModelSource
from steer.pocket import corpus
from steer.steering.operation import Coefficient
from steer.steering.steers import Steer

FEW = ["--samples", 4, "--max-tokens", 12, "--jobs", 1]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subjects.stories, "__defaults__", (12,))
    monkeypatch.setattr(grids, "SHARES", (0.05, 0.2))


def test_stories_know_nothing_of_tags() -> None:
    subjects_made = subjects.stories()
    assert len(set(subjects_made)) == len(subjects_made) > 90
    assert subjects_made == subjects.stories()
    assert not any(text.startswith("[") for text in subjects_made)
    with pytest.raises(UsageError, match="too few"):
        subjects.distinct_texts(["a", "b", " "] * 9)


def test_every_value_of_the_grammar_is_a_subject() -> None:
    every = subjects.pocket_subjects()
    assert [row.grammar for row in every] == [v for kind in corpus.KINDS.values() for v in kind]
    assert subjects.pocket_subjects(["sea"])[0].condition == "[topic: sea]"
    with pytest.raises(UsageError, match="has no 'happy'"):
        subjects.pocket_subjects(["happy"])


def test_a_method_that_fails_counts_as_nothing() -> None:
    def there(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.1, "high": value + 0.1}

    rows: list[dict[str, Any]] = [
        {"subject": "a", "method": "x", "recovery": there(0.5), "of_prompt": there(0.75)},
        {"subject": "b", "method": "x", "choice": None},
        {"subject": "c", "method": "x", "recovery": there(0.25), "of_prompt": there(1.5)},
    ]
    [row] = summary(rows)
    assert (row["n"], row["failed"]) == (3, 1)
    assert row["recovery"] == {"value": 0.25, "low": 0.0, "high": 0.5}
    assert row["of_prompt"] == {"value": 0.75, "low": 0.0, "high": 1.5}
    assert row["kl"] is None


def test_others_vectors_are_swept_in_shares_of_the_activations_too() -> None:
    """Their files do not say how long these are, and some hold unit vectors."""
    model = tiny.model("llama")
    ours = tiny.vector(model)
    nameless = tuple(
        msgspec.structs.replace(statistic, resid_norm=None)
        for statistic in ours.metadata.statistics
    )
    theirs = replace(ours, metadata=msgspec.structs.replace(ours.metadata, statistics=nameless))
    written = write(model, TextSettings(("w1 w2",), samples=4, max_tokens=8), ())
    known = suites.with_lengths(model, theirs, written)
    for layer in ours.metadata.layers:
        delta = Steer(known, Coefficient(0.2, "residual"), (layer,)).delta(layer)
        length = known.metadata.at(layer).resid_norm
        assert length and 0.2 * length == pytest.approx(np.linalg.norm(delta), rel=1e-3)
    assert suites.with_lengths(model, known, written) is known


def wait(model: Any, subject: subjects.Subject) -> list[dict[str, Any]]:
    """What is done in other processes: of all but one subject it takes for ever."""
    if subject.name != "sea":
        time.sleep(1_000)
    return [{"subject": subject.name, "width": model.identity.d_model}]


def test_who_stops_waits_for_no_process() -> None:
    before = set(multiprocessing.active_children())
    results = processes.measure(
        ModelSource("pocket"), subjects.pocket_subjects(["city", "sea"]), wait, 2
    )
    subject, rows = next(results)
    assert subject.name == "sea" and rows[0]["width"] > 0
    started = set(multiprocessing.active_children()) - before
    assert len(started) == 2
    results.close()
    assert not any(child.is_alive() for child in started)


def test_a_process_that_is_killed_is_reported() -> None:
    before = set(multiprocessing.active_children())
    results = processes.measure(
        ModelSource("pocket"), subjects.pocket_subjects(["sea", "city"]), wait, 1
    )
    next(results)
    for child in set(multiprocessing.active_children()) - before:
        child.kill()
    with pytest.raises(SteerError, match="was killed"):
        next(results)


@pytest.mark.usefixtures("small")
def _no_room() -> None:
    raise SteerError("no room")


def test_rows_lie_between_nothing_and_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [json.dumps({"text": text}) for text in subjects.stories()]
    Path("texts.jsonl").write_text("\n".join(texts))
    tag = ["--positive", "[topic: sea]", "--negative", "", "--texts", "texts.jsonl"]
    assert steer("extract", *tag, "-o", "sea.safetensors").exit_code == 0
    assert steer("convert", "./sea.safetensors:1@1-4", "other.gguf").exit_code == 0
    words = ["suite", "--tags", "sea,city", "--methods", "mean_diff;lda", *FEW]
    words += ["--guidance", "1", "--guidance", "0"]
    original, done = suites.measure_subject, []

    def dying(model: Any, subject: Any, **others: Any) -> Any:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(subject.name)
        return original(model, subject, **others)

    monkeypatch.setattr(suites, "measure_subject", dying)
    assert steer(*words, "-v", "sea=other.gguf").exit_code == 130
    monkeypatch.setattr(suites, "measure_subject", original)
    with monkeypatch.context() as full:
        full.setattr("steer.base.files.write_atomic", lambda *_, **__: _no_room())
        assert steer(*words, "-v", "sea=other.gguf", "-o", "x.json").exit_code == 1
    result = steer(*words, "-v", "sea=other.gguf", "-o", "x.json")
    assert result.exit_code == 0, result.stderr
    assert "2 of 2 were done before" in result.stderr
    report = json.loads(Path("x.json").read_text())
    rows = {(row["subject"], row["method"]): row for row in report["rows"]}
    assert {method for subject, method in rows if subject == "sea"} == {
        *("unsteered", "mean_diff", "lda", "other.gguf", "random direction", "the prompt"),
        *("the prompt guided ×1", "the prompt guided ×0"),
    }
    for subject in ("sea", "city"):
        assert rows[subject, "the prompt"]["recovery"]["value"] == 1
        assert rows[subject, "unsteered"]["recovery"]["value"] == 0
        for strength in (0, 1):
            guided = rows[subject, f"the prompt guided ×{strength}"]["recovery"]["value"]
            assert guided == pytest.approx(strength, abs=1e-3)
        assert rows[subject, "mean_diff"]["kl"]["value"] > 0
    assert rows["sea", "mean_diff"]["recovery"]["value"] > 0.05
    assert rows["sea", "random direction"]["recovery"]["value"] < 0.05
    assert "the prompt" in result.stdout
    assert [row["n"] for row in report["summary"] if row["method"] == "other.gguf"] == [1]


def test_what_cannot_be_compared_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steer.cli.options.load_model", lambda source: pytest.fail("loaded"))
    failed(steer("suite", "--tags", "happy"), 2, "has no 'happy'", "joyful")
    failed(steer("suite", "--methods", "magic"), 2, "'magic' is not a method", "lda")
    failed(steer("suite", "--condition", "x", "--tags", "sea"), 2, "exclude each other")
    failed(steer("suite", "--condition", "x"), 2, "needs --texts")
    failed(steer("suite", "--texts", "x.jsonl"), 2, "go with --condition")
    failed(steer("suite", "-v", "sea=no.gguf"), 1, "no file no.gguf")
    failed(steer("suite", "-v", "no.gguf"), 2, "is not TAG=FILE")
