"""Successive halving of a large grid: what it scores, what it drops, and what that leaves alone."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from test_cli import PAIRS, steer

from steer.evaluation.scoring import Scorer
from steer.measures.grids import Grid, reach
from steer.measures.halving import FEWEST, WHOLE_ROWS, added, better_half, n_kept, strides
from steer.measures.selection import pareto

N_ITEMS = 24
SPECS = ("joyful", "joyful:norm=keep", "joyful:add/response", "joyful:add/not-response=0")


@given(st.integers(1, 200), st.integers(1, 300))
def test_every_text_is_scored_once(n_rows: int, n: int) -> None:
    every = strides(n_rows, n)
    looks = [added(n, stride, every[0]) for stride in every]
    assert sorted(np.concatenate(looks)) == list(range(n))
    assert len(every) == 1 or (n_rows > WHOLE_ROWS and len(looks[0]) >= FEWEST)
    seen = np.cumsum([len(look) for look in looks])
    assert all(abs(2 * few - many) <= 1 for few, many in itertools.pairwise(seen))


@given(st.integers(1, 200))
def test_few_rows_stay_whole(n_rows: int) -> None:
    left = n_rows
    for _ in strides(n_rows, 10**9)[1:]:
        assert n_kept(left) < left
        left = n_kept(left)
    assert left == min(n_rows, WHOLE_ROWS)
    assert n_kept(left) == left


@given(st.floats(0.1, 10), st.floats(0.01, 10), st.floats(0.02, 1))
def test_a_row_reaches_what_it_would_do_at_the_budget(slope: float, bend: float, kl: float) -> None:
    """Whatever its coefficients: the effect is as the coefficient, the cost as its square."""
    shares = np.geomspace(0.001, 100, 17)
    effects, costs = slope * shares, bend * shares**2
    assert reach(effects[None], costs[None], kl)[0] == pytest.approx(slope * np.sqrt(kl / bend))
    assert reach(effects[None], costs[None] + 1e4, kl)[0] == -np.inf
    assert reach(effects[None, :3], costs[None, :3] * 0, kl)[0] == effects[2]


@given(st.integers(0, 10_000), st.integers(1, 40))
def test_what_goes_on_reaches_as_much_as_what_does_not(seed: int, n_rows: int) -> None:
    rng = np.random.default_rng(seed)
    effect, drift = rng.normal(size=(2, n_rows, 3, 8))
    grid = Grid("preference", effect, np.ones(8), drift**2, np.ones(8), effect)
    grid.effect[..., 4:] = np.nan  # what is not scored yet does not count
    kept = better_half(grid, range(n_rows), 0.5)
    reached = reach(*grid.looks(), 0.5)
    assert kept == sorted(kept)
    assert len(kept) == n_kept(n_rows)
    left = set(range(n_rows)) - set(kept)
    assert not left or min(reached[kept]) >= max(reached[list(left)])


def test_what_was_not_scored_is_not_on_the_front() -> None:
    nan = float("nan")
    assert pareto([nan, 1.0, 2.0, nan], [nan, 0.1, 0.2, 0.3]) == [1, 2]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture
def joyful(folder: Path) -> None:
    Path("vectors").mkdir()
    Path("joyful.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    rows = [
        {"prompt": f"w{i}", "positive": f"w{i + 3} w{i + 4}", "negative": f"w{i + 7}"}
        for i in range(20, 20 + N_ITEMS)
    ]
    Path("held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert steer("extract", "joyful.jsonl", "-m", folder).exit_code == 0


def swept(folder: Path, *words: object) -> Any:
    vectors = [word for spec in SPECS for word in ("-v", spec)]
    few = ["--samples", N_ITEMS, "--max-tokens", 4, "--coefficients=-20%,20%", "--max-nats", 10]
    asked = ["--texts", "held.jsonl", "-o", "x.json", "--force"]
    return steer("sweep", "-m", folder, *vectors, *few, *asked, *words)


def found(folder: Path, *words: object) -> dict[str, Any]:
    told = swept(folder, *words)
    assert told.exit_code in (0, 1), told.stderr
    return json.loads(Path("x.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.usefixtures("joyful")
def test_rows_that_go_on_have_the_numbers_of_an_exhaustive_sweep(folder: Path) -> None:
    stdout = swept(folder).stdout
    halved = json.loads(Path("x.json").read_text())
    whole = found(folder, "--exhaustive")
    assert whole["row_items"] == [N_ITEMS] * len(whole["rows"])
    assert halved["rows"] == whole["rows"]
    n_whole = halved["row_items"].count(N_ITEMS)
    assert WHOLE_ROWS == n_whole < len(halved["rows"])
    assert set(halved["row_items"]) == {N_ITEMS, N_ITEMS // 2}
    assert f"{len(halved['rows']) - n_whole} rows, left out after 12 of 24 items" in stdout
    assert sum("~ " in line for line in stdout.splitlines()) == len(whole["rows"]) - n_whole
    looked = set()
    for index, (one, other) in enumerate(zip(halved["cells"], whole["cells"], strict=True)):
        assert one["typed"] == other["typed"]
        if halved["row_items"][index // 2] == N_ITEMS:
            for name in ("effect", "kl"):
                assert list(one[name].values()) == pytest.approx(
                    list(other[name].values()), rel=1e-3, abs=1e-5
                )
        else:
            looked.add(one["typed"])
    assert not looked & {one["typed"] for one in halved["front"]}
    assert halved["choice"]["typed"] not in looked


@pytest.mark.usefixtures("joyful")
def test_a_halved_sweep_that_was_killed_goes_on_to_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = found(folder)
    original, calls = Scorer.score, 0

    def dying(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 30:  # after the first look, at twelve rows by two
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Scorer, "score", dying)
        assert swept(folder).exit_code == 130
    assert "going on with a sweep" in swept(folder).stderr
    assert json.loads(Path("x.json").read_text()) == expected


@pytest.mark.usefixtures("joyful")
def test_a_rule_that_goes_by_more_than_the_effect_sees_every_row(folder: Path) -> None:
    told = found(folder, "--rule", "refusal_direction")
    assert told["row_items"] == [N_ITEMS] * len(told["rows"])
