"""Successive elimination: what it scores, which cells it drops, and what that leaves alone."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from test_cli import PAIRS, steer
from test_sweep import grid_of, look_of, scores_of

from steer.evaluation import choice
from steer.evaluation.choice import Budget, decide
from steer.evaluation.scoring import Scorer
from steer.measures.elimination import FEWEST, LEAVE, contenders, looks, n_looks
from steer.measures.grids import PILOT, SHARES, Scores, pilot, promising_rows, reach, thinned
from steer.measures.selection import pareto

VECTOR = Path(__file__).parents[1] / "vectors" / "joyful.safetensors"
N_ITEMS = 24
SPECS = ("joyful", "joyful:norm=keep", "joyful:add/response", "joyful:add/not-response=0")


@given(st.integers(1, 600))
def test_every_text_is_scored_once(n: int) -> None:
    parts = looks(n, n_looks(n))
    assert sorted(np.concatenate(parts)) == list(range(n))
    assert len(parts) == 1 or len(parts[0]) >= FEWEST
    assert len(parts) == LEAVE + 1 or len(parts[0]) <= 2 * FEWEST
    seen = np.cumsum([len(part) for part in parts])
    assert all(abs(2 * few - many) <= 1 for few, many in itertools.pairwise(seen))


@given(st.floats(0.1, 10), st.floats(0.01, 10), st.floats(0.02, 1))
def test_a_row_reaches_what_it_would_do_at_the_budget(slope: float, bend: float, kl: float) -> None:
    """Whatever its coefficients: the effect is as the coefficient, the cost as its square."""
    shares = np.geomspace(0.001, 100, 17)
    effects, costs = slope * shares, bend * shares**2
    assert reach(effects[None], costs[None], kl)[0] == pytest.approx(slope * np.sqrt(kl / bend))
    assert reach(effects[None], costs[None] + 1e4, kl)[0] == -np.inf
    assert reach(effects[None, :3], costs[None, :3] * 0, kl)[0] == effects[2]


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.05, 5)), min_size=12, max_size=30))
def test_three_coefficients_show_the_row_that_holds_the_choice(
    rows: list[tuple[float, float]],
) -> None:
    """Effects go with the coefficient and costs with its square, at a rate of each row's own."""
    slopes, bends = np.array(rows).T
    shares = np.array(SHARES)
    effects, costs = np.outer(slopes, shares), np.outer(bends, shares**2)
    grid = grid_of(len(rows), SHARES)
    few = pilot(grid)
    assert few is not None
    columns = list(PILOT)
    assert [coefficient.value for coefficient in few.rows[0].coefficients] == shares[
        columns
    ].tolist()
    kept = promising_rows(scores_of(effects[:, columns], costs[:, columns]), 0.1)
    best = np.where(costs <= 0.1, effects, -np.inf)
    assert kept == sorted(set(kept))
    if best.max() > 0:
        assert np.unravel_index(best.argmax(), best.shape)[0] in kept


def test_small_grids_and_the_users_own_coefficients_are_not_looked_at_first() -> None:
    assert pilot(grid_of(11, SHARES)) is None
    assert pilot(grid_of(30, (0.1, 0.2))) is None
    # Where nothing is within the budget, nothing is known of the rows.
    assert promising_rows(scores_of(np.ones((12, 3)), np.ones((12, 3))), 0.1) == list(range(12))


def test_a_quick_look_has_layers_from_all_through_the_middle() -> None:
    thin = thinned(grid_of(30, SHARES), 6)
    layers = [row.layers[0] for row in thin.rows]
    assert len(layers) == 6
    assert layers[0] > 0 and layers[-1] < 29
    assert thin.n_columns == 5
    few = thinned(grid_of(3, (0.1, 0.2)), 6)
    assert (len(few.rows), few.n_columns) == (3, 2)


def noisy(means: Any, costs: Any, seed: int, n: int = 48, spread: float = 1.0) -> Scores:
    """Items whose effects go up and down together, and each a little by itself."""
    rng = np.random.default_rng(seed)
    means, costs = np.asarray(means, float), np.asarray(costs, float)
    shared = rng.normal(size=n)
    effect = means[..., None] + shared + 0.2 * spread * rng.normal(size=(*means.shape, n))
    drift = costs[..., None] * rng.uniform(0.5, 1.5, size=(*means.shape, n))
    return Scores("preference", effect, np.ones(n), drift, np.ones(n), effect)


def seen(scores: Scores, items: Any) -> Scores:
    """The scores as it was when these items and texts were scored, and no others."""
    effect, drift = np.full_like(scores.effect, np.nan), np.full_like(scores.drift, np.nan)
    effect[..., items], drift[..., items] = scores.effect[..., items], scores.drift[..., items]
    return replace(scores, effect=effect, drift=drift)


@given(st.integers(0, 10_000))
def test_what_leaves_is_worse_than_what_stays_or_dearer_than_the_budget(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = noisy(rng.normal(size=(4, 5)), rng.uniform(0, 0.2, size=(4, 5)), seed)
    looked = seen(scores, looks(48, 3)[0])
    stay = contenders(looked, 0.1)
    effects, costs = looked.looks()
    within = np.where(stay & (costs <= 0.1), effects, -np.inf)
    assert stay.any()
    assert np.all(stay | (costs > 0.1) | (effects < within.max()))


def test_what_is_shared_by_the_items_does_not_keep_what_is_worse() -> None:
    """A single effect is known to a fifth of what it takes; the differences are known well."""
    scores = noisy([[1.0, 0.5, 0.95]], [[0.01, 0.01, 0.01]], seed=0)
    assert contenders(seen(scores, looks(48, 3)[0]), 0.1).tolist() == [[True, False, True]]


def test_what_may_be_within_the_budget_stays() -> None:
    scores = noisy([[1.0, 2.0, 3.0, 4.0]], [[0.02, 0.09, 0.11, 0.5]], seed=0)
    looked = seen(scores, looks(48, 3)[0])
    # The second may be above the budget and the third within it, so the first may be the choice.
    assert contenders(looked, 0.1).tolist() == [[True, True, True, False]]
    assert contenders(looked, 0.1, {(0, 2)}).tolist() == [[True, True, False, False]]
    assert not contenders(looked, 0.001).any()


def test_a_cell_that_left_comes_back_where_a_stronger_ones_texts_fall_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grid = grid_of(3, (0.1,))
    truth = noisy([[3.0], [2.0], [1.0]], [[0.03], [0.02], [0.01]], seed=0)
    partly = seen(truth, looks(48, 3)[0])
    cells = contenders(partly, 0.1)
    assert cells.tolist() == [[True], [False], [False]]
    effect, drift = np.array(partly.effect), np.array(partly.drift)
    effect[cells], drift[cells] = truth.effect[cells], truth.drift[cells]
    partly = replace(partly, effect=effect, drift=drift)
    scored: list[list[list[int]]] = []

    def completed(texts: Any, grid: Any, scores: Scores, cells: Any) -> Scores:
        scored.append(np.argwhere(cells).tolist())
        effect, drift = scores.effect.copy(), scores.drift.copy()
        effect[cells], drift[cells] = truth.effect[cells], truth.drift[cells]
        return replace(scores, effect=effect, drift=drift)

    monkeypatch.setattr(choice, "completed", completed)
    anything: Any = SimpleNamespace()
    for failing, expected in ((), []), ((0,), [[[1, 0]]]), ((0, 1), [[[1, 0]], [[2, 0]]]):
        scored.clear()
        look, _ = look_of({(row, 0): float(row in failing) for row in range(3)})
        scores, tried = decide(anything, grid, partly, Budget(nats=0.5), look)
        assert tried is not None
        assert tried.position == (len(failing), 0)
        assert scored[-1:] == expected[-1:]
        assert scores.complete()[tried.position]


def test_a_grid_with_equal_items_is_known_at_once() -> None:
    scores = scores_of([[1, 2], [2, 3]], [[0, 0], [0, 1]])
    assert contenders(scores, 0.1).tolist() == [[False, True], [True, False]]


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
    few = ["--samples", N_ITEMS, "--max-tokens", 4, "--coefficients=-60%,60%"]
    budget = ["--max-kl", 10, "--max-nats", 10]
    options = [*budget, "--texts", "held.jsonl", "-o", "x.json", "--force"]
    return steer("sweep", "-m", folder, *vectors, *few, *options, *words)


def sweep_report(folder: Path, *words: object) -> dict[str, Any]:
    report = swept(folder, *words)
    assert report.exit_code in (0, 1), report.stderr
    return json.loads(Path("x.json").read_text())  # type: ignore[no-any-return]


def test_cells_that_go_on_have_the_numbers_of_an_exhaustive_sweep() -> None:
    words = ["sweep", "-v", VECTOR, "--layers", "1-3", "--coefficients", "2%,15%,-15%"]
    few = ["--condition", "[mood: joyful]", "--samples", N_ITEMS, "--max-tokens", 16]
    stdout = steer(*words, *few, "-o", "fewer.json").stdout
    fewer = json.loads(Path("fewer.json").read_text())
    exhaustive = json.loads(steer(*words, *few, "--exhaustive", "--json").stdout)
    assert {cell["items"] for cell in exhaustive["cells"]} == {N_ITEMS}
    # Other batches round otherwise.
    assert fewer["choice"]["typed"] == exhaustive["choice"]["typed"]
    left = [cell["typed"] for cell in fewer["cells"] if cell["items"] < N_ITEMS]
    assert 0 < len(left) < len(fewer["cells"])
    assert {cell["items"] for cell in fewer["cells"]} == {N_ITEMS, N_ITEMS // 2}
    assert f"dropped after 12 of 24 items ({len(left)} of {len(fewer['cells'])} cells)" in stdout
    assert "~ " in stdout
    for cell, other in zip(fewer["cells"], exhaustive["cells"], strict=True):
        assert cell["typed"] == other["typed"]
        if cell["items"] == N_ITEMS:
            for name in ("effect", "kl"):
                assert list(cell[name].values()) == pytest.approx(
                    list(other[name].values()), rel=1e-3, abs=1e-5
                )


@pytest.mark.usefixtures("joyful")
def test_a_sweep_that_left_cells_out_and_was_killed_goes_on_to_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = sweep_report(folder)
    original, calls = Scorer.score, 0

    def dying(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 25:  # after the first look, at twelve rows by two
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Scorer, "score", dying)
        assert swept(folder).exit_code == 130
    assert "resuming an interrupted sweep" in swept(folder).stderr
    assert json.loads(Path("x.json").read_text()) == expected


@pytest.mark.usefixtures("joyful")
def test_a_rule_that_goes_by_more_than_the_effect_sees_every_cell(folder: Path) -> None:
    report = sweep_report(folder, "--rule", "refusal_direction")
    assert {cell["items"] for cell in report["cells"]} == {N_ITEMS}
