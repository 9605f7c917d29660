"""What was done is found again; what was cut off is done again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from steer.base.errors import SteerError
from steer.base.journal import Journal
from steer.contrasts.heldout import HeldOut
from steer.distillation.lessons import Conditions
from steer.distillation.settings import DistillSettings
from steer.distillation.texts import journal as lessons_journal
from steer.evaluation.bench import Bench
from steer.evaluation.bench import journal as sweep_journal
from steer.evaluation.task import Task
from steer.evaluation.task import journal as evaluation_journal
from steer.evaluation.written import TextSettings
from steer.measures.grids import Grid
from steer.workers import LocalWorker, RemoteModel


def test_another_run_finds_what_was_done() -> None:
    first = Journal.of("test", "a", [1])
    first.put("row", [0.1, 1e-300])
    second = Journal.of("test", "a", [1])
    assert second.get("row") == [0.1, 1e-300]
    assert Journal.of("test", "a", [2]).get("row") is None
    second.finish()
    assert Journal.of("test", "a", [1]).get("row") is None


@given(st.integers(0, 60))
def test_a_run_that_was_killed_leaves_whole_lines_of_use(cut: int) -> None:
    path = Path("cut.jsonl")
    path.unlink(missing_ok=True)
    journal = Journal(path)
    for number in range(3):
        journal.put(f"key {number}", [number / 3])
    data = path.read_bytes()
    path.write_bytes(data[: max(0, len(data) - cut)])
    again = Journal(path)
    kept = len(again)
    for number in range(3):
        assert again.get(f"key {number}") == ([number / 3] if number < kept else None)
        again.put(f"key {number}", [number / 3])
    assert [Journal(path).get(f"key {number}") for number in range(3)] == [[0], [1 / 3], [2 / 3]]


@pytest.mark.parametrize(
    "line",
    [b"5", b"[]", b"[1, 2, 3]", b'[["a"], 1]', b"[1, 2]", b'{"a": 1, "b": 2}', b'"ab"', b"null",
     b"\xff\xfe", b"[" * 100_000, b'["key", ' + b"9" * 10_000 + b"]", b"\0", b""],
)  # fmt: skip
def test_any_line_that_does_not_parse_is_skipped(line: bytes) -> None:
    path = Path("kept.jsonl")
    journal = Journal(path)
    journal.put("first", 1)
    path.write_bytes(path.read_bytes() + line + b"\n")
    Journal(path).put("last", 2)
    again = Journal(path)
    assert (again.get("first"), again.get("last"), len(again)) == (1, 2, 2)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="has no owners")
def test_what_somebody_else_can_have_written_is_not_gone_on_with() -> None:
    path = Path("kept.jsonl")
    Journal(path).put("key", 1)
    assert path.stat().st_mode & 0o077 == 0
    path.chmod(0o666)
    journal = Journal(path)
    assert journal.get("key") is None
    journal.put("key", 2)
    assert Journal(path).get("key") == 2
    path.rename("other")
    path.symlink_to("other")
    assert Journal(path).get("key") is None
    assert Path("other").exists()


def test_a_folder_that_cannot_be_made_is_named() -> None:
    Path("file").write_text("")
    with pytest.raises(SteerError, match="file/x"):
        Journal(Path("file/x"))


def test_work_in_another_precision_is_other_work_wherever_it_is_done() -> None:
    here = tiny.model("llama")
    written = TextSettings(("w4",))
    prompts, settings = ["w4"], DistillSettings("x")
    texts = Bench(here, "recovery", [], [], [])
    for journal_path in (
        lambda model: lessons_journal(model, Conditions("w5"), prompts, settings),
        lambda model: evaluation_journal(model, [], Task(HeldOut(), written), []),
        lambda model: sweep_journal(model, Grid(()), texts),
    ):
        # Of a model whose workers have the weights there is here only its shape.
        models = [
            RemoteModel(
                here.network,
                here.tokenizer,
                here.identity,
                here.hooks,
                workers=LocalWorker(here),
                described=f"tiny · cuda:0 {dtype}",
            )
            for dtype in ("float32", "bfloat16")
        ]
        paths = {journal_path(model).path for model in (here, *models)}
        assert len(paths) == 3
