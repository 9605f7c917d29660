"""An evaluation that was stopped, however and whenever, goes on to what a whole one gives."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import killing
import pytest
from test_endpoint import Server, graded, server  # noqa: F401  (a fixture)
from test_evaluate import folder, joyful, run  # noqa: F401  (fixtures)

from steer.evaluation import endpoint
from steer.evaluation.scoring import Scorer


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks")
def test_kill_9_at_any_moment_leaves_no_trace(tmp_path: Path) -> None:
    rounds = killing.rounds_of("killed_eval.py", tmp_path, 3)
    assert all(kept == sorted(kept) for kept in rounds), "what was done was lost"
    assert any(kept > 0 for round_key in rounds for kept in round_key), (
        "no run was killed in its midst"
    )
    expected = (tmp_path / "whole.json").read_bytes()
    assert all((tmp_path / f"killed-{number}.json").read_bytes() == expected for number in range(3))


@pytest.mark.parametrize("calls", [1, 5])
def test_ctrl_c_and_then_the_same_command(
    joyful: str,  # noqa: F811
    folder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    calls: int,
) -> None:
    words = ["--texts", "held.jsonl", "--condition", "w50", "--json"]
    complete = run(folder, *words)
    left, original = calls, Scorer.score

    def dying(*arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(Scorer, "score", dying)
    assert run(folder, *words).exit_code == 130
    left = 100
    resumed = run(folder, *words)
    assert "resuming an interrupted evaluation" in resumed.stderr
    assert resumed.stdout == complete.stdout
    again = run(folder, *words)  # what is done is not kept
    assert "going on" not in again.stderr
    # Another condition is another evaluation.
    left = calls
    assert run(folder, *words).exit_code == 130
    left = 100
    assert "going on" not in run(folder, *words, "--seed", 1).stderr


def test_a_judge_that_dies_midway_costs_nothing_that_was_done(
    joyful: str,  # noqa: F811
    folder: Path,  # noqa: F811
    server: Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endpoint, "AT_ONCE", 1)
    words = ["--texts", "held.jsonl", "--concept", "judge:a cheerful mood", "--json"]
    words += ["--judge-model", "grader-1", "--judge-url", server.url]
    server.behaviour = lambda request, number: (
        graded(request, number) if number < 6 else (500, {"retry-after-ms": "1"}, b"{}")
    )
    stopped = run(folder, *words)
    assert stopped.exit_code == 1
    assert "status 500" in stopped.stderr
    assert "to resume" in stopped.stderr
    prompts = set(server.texts[:6])
    server.behaviour, first = graded, len(server.requests)
    with monkeypatch.context() as patched:
        patched.setattr(Scorer, "score", lambda *_: pytest.fail("scored again"))
        resumed = run(folder, *words)
    assert resumed.exit_code == 0, resumed.stderr
    assert not prompts & set(server.texts[first:]), "graded again"
    assert run(folder, *words).stdout == resumed.stdout
