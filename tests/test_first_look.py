"""The first look of a sweep rules out what is clearly worse, and nothing that may be chosen."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tiny
from test_scoring import text
from test_sweep import grid_of, plan_of

from steer.evaluation.sweep import Bench, run
from steer.evaluation.verdict import Budget, _ordered
from steer.journal import Journal
from steer.measures.grids import Grid, Plan, Row, survivors
from steer.steering.operation import Coefficient

N_TEXTS, N_FIRST = 36, 12


def test_what_is_clearly_worse_is_ruled_out_and_nothing_else() -> None:
    effects = [[5.0, 1.0, 9.0], [4.9, 1.0, -3.0]]
    costs = [[0.05, 0.06, 0.5], [0.06, 0.01, 0.0]]
    sure = survivors(grid_of(effects, costs, spread=0.5), max_kl=0.1)
    # Beaten by what costs less; above the budget; no effect. What costs less than its rival stays.
    assert sure.tolist() == [[True, False, False], [True, True, False]]
    unsure = survivors(grid_of(effects, costs, spread=20.0), max_kl=0.1)
    assert unsure.tolist() == [[True, True, False], [True, True, True]]


def test_where_all_are_ruled_out_one_stays_to_be_named() -> None:
    left = survivors(grid_of([[1.0, 2.0]], [[0.3, 0.9]]), max_kl=0.1)
    assert left.tolist() == [[True, False]]


def test_what_was_only_looked_at_is_not_chosen() -> None:
    grid = grid_of([[9.0, 1.0]], [[0.0, 0.0]])
    grid.effect[0, 0, 4:] = np.nan
    assert _ordered(grid, plan_of(1, (0.1, 0.2)), Budget(kl=1)) == [(0, 1)]


@pytest.fixture(scope="module")
def texts() -> Bench:
    model = tiny.model("llama")
    sides = [text(7, 3, seed) for seed in range(2 * N_TEXTS)]
    unrelated = [text(8, 2, seed) for seed in range(100, 100 + N_TEXTS)]
    return Bench(model, "preference", sides, unrelated, [])


@pytest.fixture(scope="module")
def plan(texts: Bench) -> Plan:
    vectors = [tiny.steer(texts.model, 1, layers=(0, 1), seed=seed).vector for seed in (0, 1)]
    columns = tuple(map(Coefficient, (0.5, -0.5, 4.0)))
    return Plan(tuple(Row(v, (layer,), columns, "v") for v in vectors for layer in (0, 1)))


def last(texts: Bench, plan: Plan, path: Path, max_kl: float | None) -> Grid:
    *_, grid = run(texts, plan, Journal(path), max_kl=max_kl)
    return grid


@pytest.fixture(scope="module")
def every(texts: Bench, plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    return last(texts, plan, tmp_path_factory.mktemp("every") / "a.jsonl", None)


def test_a_first_look_gives_the_numbers_and_the_choice_of_all_texts(
    texts: Bench, plan: Plan, every: Grid, tmp_path: Path
) -> None:
    max_kl = float(np.median(every.costs()))
    grid = last(texts, plan, tmp_path / "a.jsonl", max_kl)
    assert every.whole().all()
    whole = grid.whole()
    assert 0 < whole.sum() < whole.size
    assert set(grid.n_items()[~whole].tolist()) == {N_FIRST}
    for name in ("effect", "drift", "level"):
        looked, full = getattr(grid, name), getattr(every, name)
        known = ~np.isnan(looked)
        np.testing.assert_allclose(looked[known], full[known], rtol=1e-3, atol=1e-4)
    budget = Budget(kl=max_kl)
    chosen, expected = _ordered(grid, plan, budget), _ordered(every, plan, budget)
    assert all(whole[place] for place in chosen)
    assert chosen[0] == expected[0]


@pytest.mark.parametrize("n_rows", [1, 3, 5])
def test_a_look_that_was_killed_goes_on_to_the_same(
    texts: Bench, plan: Plan, every: Grid, tmp_path: Path, n_rows: int
) -> None:
    max_kl = float(np.median(every.costs()))
    whole = last(texts, plan, tmp_path / "whole.jsonl", max_kl)
    stopped = run(texts, plan, Journal(tmp_path / "b.jsonl"), max_kl=max_kl)
    assert len(list(islice(stopped, n_rows))) == n_rows
    resumed = last(texts, plan, tmp_path / "b.jsonl", max_kl)
    for name in ("effect", "weights", "drift", "level"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))
