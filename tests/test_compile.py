"""Laws of compiled prompts: clauses, what stays text, and recipes that do what was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import steer
from steer.base.errors import InputError, SteerError, UsageError
from steer.cli.main import app
from steer.contrasts.prompts import QUESTIONS
from steer.distillation.clauses import clauses, kept_text
from steer.distillation.compiled import CompiledPrompt
from steer.distillation.hybrid import CompileSettings, compile_prompt
from steer.distillation.lessons import Conditions
from steer.distillation.lowrank import Teacher, divergences
from steer.distillation.recovery import recovery
from steer.distillation.texts import write
from steer.distillation.unrelated import UnrelatedTexts
from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource

PROMPT = "[mood: joyful] [topic: sea]"
SMALL = {"samples": 24, "held_out": 8, "max_tokens": 12}


@cache
def pocket() -> Model:
    return load(ModelSource("pocket", device="cpu"))


@cache
def compiled(prompt: str = PROMPT, **changes: Any) -> CompiledPrompt:
    settings = CompileSettings("x", **SMALL | changes)
    return compile_prompt(pocket(), prompt, QUESTIONS[:12], settings)


@cache
def hybrid() -> CompiledPrompt:
    """One clause as text and one in an edit: the goal lies above what an edit alone recovers."""
    every = [trial for trial in compiled(goal=1.0).tried if trial["texts"] == SMALL["samples"]]
    alone, beside = (
        max(row["recovery"] for row in every if len(row["kept"]) == n) for n in range(2)
    )
    assert alone < beside
    return compiled(goal=(alone + beside) / 2)


@pytest.mark.parametrize(
    ("prompt", "n"),
    [
        ("You are a pirate. Be brief.", 2),
        ("Answer in the style of a letter, and always mention the weather.", 2),
        ("Answer with a list of points, and nothing else.", 1),
        ("One\n- two\n\n- three", 3),
        ("[mood: joyful] [topic: sea]", 2),
        ('Say "no." Then go; slowly!', 3),
        ("  \n Hi.  ", 1),
        ("Hi", 1),
    ],
)
def test_clauses_joined_are_the_prompt(prompt: str, n: int) -> None:
    pieces = clauses(prompt)
    assert "".join(pieces) == prompt
    assert len(pieces) == n
    assert all(piece.strip() for piece in pieces)
    assert kept_text(pieces, range(n)) == prompt
    assert kept_text(pieces, ()) == ""


def test_half_a_sentence_becomes_a_sentence() -> None:
    pieces = clauses("Answer in the style of a letter, and always mention the weather.")
    assert kept_text(pieces, [0]) == "Answer in the style of a letter."
    assert kept_text(pieces, [1]) == "Always mention the weather."


def texts_and_base() -> Any:
    settings = CompileSettings("x", **SMALL).edit
    texts = write(pocket(), Conditions(PROMPT, chat=True), QUESTIONS[:12], settings)
    teacher = Teacher(pocket())
    return texts, teacher, divergences(pocket(), texts.held_out, teacher, None)


def test_the_whole_prompt_recovers_all_and_is_first() -> None:
    first_row = hybrid().rows[0]
    assert (first_row.text, first_row.steer) == (PROMPT, None)
    assert first_row.recovery.value == pytest.approx(1, abs=1e-4)
    assert first_row.tokens == len(pocket().encode(PROMPT, special=False))


def test_a_lower_goal_keeps_no_more_clauses_and_a_goal_of_all_keeps_the_prompt() -> None:
    low, high, everything = compiled(goal=0.1), hybrid(), compiled(goal=1.0)
    assert len(low.kept) <= len(high.kept) <= len(everything.kept)
    assert (low.kept, low.text) == ((), "")
    assert low.vector is not None
    assert (everything.vector, everything.text, everything.saved) == (None, PROMPT, 0)
    assert everything.chosen == 0


def test_the_recovery_of_a_text_alone_is_that_of_a_shorter_prompt() -> None:
    result = hybrid()
    row = next(row for row in result.rows if row.text and row.steer is None and row.text != PROMPT)
    texts, teacher, base = texts_and_base()
    short = [pocket().encode(pocket().chat(q, row.text), special=False) for q in texts.prompts]
    token_ids = [
        tuple(pocket().encode(pocket().chat(q, PROMPT), special=False)) for q in texts.prompts
    ]
    starts = dict(zip(token_ids, short, strict=True))
    rows = [
        type(lesson)(
            lesson.conditioned,
            (*starts[lesson.conditioned[: -lesson.n]], *lesson.conditioned[-lesson.n :]),
            lesson.n,
        )
        for lesson in texts.held_out
    ]
    left = divergences(pocket(), rows, teacher, None)
    assert row.recovery.value == pytest.approx(recovery(left, base).value, abs=1e-4)


def test_the_recipe_is_the_chosen_row_and_does_what_was_measured(tmp_path: Path) -> None:
    result = hybrid()
    row = result.rows[result.chosen]
    assert (row.text, result.saved) == (result.text, result.rows[0].tokens - row.tokens)
    assert 0 < len(result.kept) < len(result.clauses)
    assert row.recovery.value > max(
        form.recovery.value for form in result.rows[1:] if form is not row
    )
    assert result.vector is not None
    path = tmp_path / "x.toml"
    assert result.save(path) == tmp_path / "x.safetensors"
    loaded = steer.read_recipe(path)
    assert loaded.generation == {"chat": True, "system": result.text}
    assert [str(steer.file) for steer in loaded.steers] == [str(path)]
    distillation = result.vector.metadata.method.distillation
    assert distillation is not None
    assert result.vector.metadata.contrast.negative == result.text
    model = steer.Model(pocket())
    vector = steer.Vector(result.vector)
    by_hand = model.generate("How are you?", vector, system=result.text, temperature=0)
    run = CliRunner().invoke(
        app, ["apply", "How are you?", "--recipe", str(path), "-t", "0", "--json"]
    )
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["results"][0]["text"] == by_hand.text
    with pytest.raises(SteerError, match="exists"):
        result.save(path)


def test_a_prompt_of_one_clause_becomes_an_edit_or_a_token_that_saves_more_than_nothing() -> None:
    result = compiled("[topic: sea]", goal=0.05, forms="both", steps=15)
    labels = [result.label(row) for row in result.rows]
    assert labels == ["whole prompt", "edit alone", "token alone"]
    assert [row.tokens for row in result.rows[1:]] == [0, 1]
    assert (result.rows[result.chosen].steer, result.text) == ("edit", "")
    assert result.saved == result.rows[0].tokens


def test_unrelated_texts_diverge_by_the_prompt_alone_and_not_without() -> None:
    conditions = Conditions(PROMPT, chat=True)
    own = UnrelatedTexts.of(pocket(), conditions)
    assert own.of_condition().value > 0.001
    nothing = own.steered(lambda some: divergences(pocket(), some, own.teacher, None))
    assert nothing.value == pytest.approx(0, abs=1e-6)


def test_finished_comparisons_are_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from steer.base.journal import Journal
    from steer.distillation import hybrid

    journal = Journal(None)
    settings = CompileSettings("x", goal=1.0, **SMALL)
    arguments = (pocket(), PROMPT, QUESTIONS[:12], settings)
    first = compile_prompt(*arguments, journals=lambda *_: journal)
    fits: list[Sequence[int]] = []
    sequential = hybrid.SequentialRegression

    def counted(model: Model, lessons: Sequence[Any], *rest: Any, **more: Any) -> Any:
        fits.append(())
        return sequential(model, lessons, *rest, **more)

    monkeypatch.setattr(hybrid, "SequentialRegression", counted)
    again = compile_prompt(*arguments, journals=lambda *_: journal)
    assert again.to_dict() == first.to_dict()
    assert len(fits) <= 2  # the best edit, and the edit alone: their numbers are not kept


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["compile", " ", "-o", "x.toml"], 2, "empty"),
        (["compile", "Be kind.", "-o", "x.json"], 2, ".toml"),
        (["compile", "Be kind.", "-o", "x.toml", "--as", "poem"], 2, "poem"),
        (["compile", "Be kind.", "-o", "x.toml", "--tokens", "2"], 2, "--as token"),
        (["compile", "Be kind.", "-o", "x.toml", "--recovery", "1.5"], 2, "at most 1"),
        (["compile", "Be kind.", "-o", "x.toml", "--samples", "0"], 2, "--samples"),
    ],
)
def test_the_command_refuses_what_means_nothing(
    words: list[str], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke(app, words)
    assert (run.exit_code, message in run.output) == (code, True), run.output
    assert not list(tmp_path.iterdir())


def test_the_command_writes_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "asked.txt").write_text("\n".join(QUESTIONS[:12]))
    words = ["compile", "[mood: joyful] [topic: sea]", "-o", "x.toml", "--prompts", "asked.txt"]
    words += ["--samples", "32", "--held-out", "8", "--max-tokens", "12", "--recovery", "0.3"]
    run = CliRunner().invoke(app, [*words, "--json"])
    assert run.exit_code == 0, run.output
    result = json.loads(run.stdout)
    assert result["rows"][result["chosen"]]["steer"] == result["steer"] == "edit"
    assert (tmp_path / "x.toml").exists() and (tmp_path / "x.safetensors").exists()
    assert CliRunner().invoke(app, words).exit_code == 1  # they are there
    shown = CliRunner().invoke(app, [*words, "--force"])
    assert shown.exit_code == 0, shown.output
    assert "whole prompt" in shown.stdout


def test_a_prompt_that_changes_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match="empty"):
        compile_prompt(pocket(), " ", QUESTIONS[:12], CompileSettings("x"))
    with pytest.raises(UsageError, match="not a form"):
        CompileSettings("x", forms="poem")  # type: ignore[arg-type]
