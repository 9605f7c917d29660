"""`steer suite`: methods beside the prompt, from the same texts, measured on others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_cli import failed, steer

from steer.errors import UsageError
from steer.measures import grids
from steer.suite import subjects, suite
from steer.suite.table import summary

FEW = ["--samples", 4, "--max-tokens", 12, "--jobs", 1]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, n in (("MADE_FROM", 12), ("CHOSEN_BY", 3), ("MEASURED_ON", 3)):
        monkeypatch.setattr(subjects, name, n)
    monkeypatch.setattr(grids, "SHARES", (0.05, 0.2))


def test_the_three_sets_of_texts_share_none() -> None:
    made = subjects.stories()
    every = [*made.made_from, *made.chosen_by, *made.measured_on]
    assert len(set(every)) == len(every) > 100
    assert made == subjects.stories()
    assert not any(text.startswith("[") for text in every)
    with pytest.raises(UsageError, match="too few"):
        subjects.Texts.of(["a", "b", "a"] * 3)


def test_one_tag_of_each_kind_is_distilled() -> None:
    every = subjects.of_pocket()
    assert len(every) == 13
    assert len({one.condition.split(":")[0] for one in every if one.distilled}) == 3
    assert sum(one.distilled for one in every) == 3
    assert [one.distilled for one in subjects.of_pocket(["sea", "calm", "city"])] == [1, 1, 0]
    with pytest.raises(UsageError, match="knows no 'happy'"):
        subjects.of_pocket(["happy"])


def test_a_method_that_fails_counts_as_nothing() -> None:
    there = {"value": 0.5, "low": 0.4, "high": 0.6}
    rows: list[dict[str, Any]] = [
        {"subject": "a", "method": "x", "recovery": there, "of_prompt": there, "kl": there},
        {"subject": "b", "method": "x", "choice": None},
    ]
    [made] = summary(rows)
    assert (made["n"], made["failed"]) == (2, 1)
    assert (made["recovery"], made["of_prompt"], made["worst"]) == (0.25, 0.25, 0.0)


@pytest.mark.usefixtures("small")
def test_rows_lie_between_nothing_and_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    stories = subjects.stories()
    Path("texts.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in stories.made_from)
    )
    tag = ["--positive", "[topic: sea]", "--negative", "", "--texts", "texts.jsonl"]
    assert steer("extract", *tag, "-o", "sea.safetensors").exit_code == 0
    assert steer("convert", "./sea.safetensors:1@1-4", "other.gguf").exit_code == 0
    words = ["suite", "--tags", "sea,city", "--methods", "mean_diff;lda", *FEW]
    original, done = suite.measured, []

    def dying(model: Any, subject: Any, **others: Any) -> Any:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(subject.name)
        return original(model, subject, **others)

    monkeypatch.setattr(suite, "measured", dying)
    assert steer(*words, "-v", "sea=other.gguf").exit_code == 130
    monkeypatch.setattr(suite, "measured", original)
    told = steer(*words, "-v", "sea=other.gguf", "-o", "x.json")
    assert told.exit_code == 0, told.stderr
    assert "1 of 2 were done before" in told.stderr
    found = json.loads(Path("x.json").read_text())
    rows = {(row["subject"], row["method"]): row for row in found["rows"]}
    assert {method for subject, method in rows if subject == "sea"} == {
        *("unsteered", "mean_diff", "lda", "other.gguf", "random direction", "the prompt")
    }
    for subject in ("sea", "city"):
        assert rows[subject, "the prompt"]["recovery"]["value"] == 1
        assert rows[subject, "unsteered"]["recovery"]["value"] == 0
        assert rows[subject, "mean_diff"]["kl"]["value"] > 0
    assert rows["sea", "mean_diff"]["recovery"]["value"] > 0.05
    assert rows["sea", "random direction"]["recovery"]["value"] < 0.05
    assert "the prompt" in told.stdout
    assert [one["n"] for one in found["summary"] if one["method"] == "other.gguf"] == [1]


def test_what_cannot_be_compared_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steer.cli.options.load_model", lambda source: pytest.fail("loaded"))
    failed(steer("suite", "--tags", "happy"), 2, "knows no 'happy'", "joyful")
    failed(steer("suite", "--methods", "magic"), 2, "'magic' is not a method", "lda")
    failed(steer("suite", "--condition", "x", "--tags", "sea"), 2, "--condition stands")
    failed(steer("suite", "--condition", "x"), 2, "needs --texts")
    failed(steer("suite", "--texts", "x.jsonl"), 2, "go with --condition")
