"""Rules that choose: by hand, by their laws, and as the authors of one of them chose."""

from __future__ import annotations

import json
import math

import pytest
from conftest import SHARED, needs_shared
from hypothesis import given
from hypothesis import strategies as st

from steer.measures.selection import Candidate, nearest, pareto, refusal_direction, strongest

number = st.floats(-10, 10)
cells = st.lists(st.tuples(number, st.floats(0, 10)), min_size=1)


def test_the_strongest_within_the_budget_by_hand() -> None:
    effects, costs = [1.0, 3.0, 2.0, 9.0], [0.0, 0.1, 0.05, 0.2]
    assert strongest(effects, costs, 0.1) == 1
    assert strongest(effects, costs, 0.07) == 2
    assert strongest([-1.0, 0.0], [0.0, 0.0], 1.0) is None
    assert strongest(effects, costs, -1.0) is None
    assert nearest(effects, costs) == 0
    assert nearest([0.0, -1.0, 0.5], [0.0, 0.0, 7.0]) == 2
    assert nearest([0.0], [0.0]) is None


def test_the_front_by_hand() -> None:
    #          beaten by 1  cheapest  beaten by 1  strongest
    effects, costs = [1.0, 1.5, 1.2, 3.0], [0.2, 0.1, 0.1, 0.5]
    assert pareto(effects, costs) == [1, 3]


def test_a_cell_scored_on_some_items_hides_none_that_was_scored_on_all() -> None:
    effects, costs = [1.0, 2.0, 0.5], [0.1, 0.1, 0.2]
    assert pareto(effects, costs) == [1]
    # The second may be luck; the third is beaten by the first, which is whole.
    assert pareto(effects, costs, [True, False, True]) == [0, 1]
    assert pareto(effects, costs, [True, True, True]) == [1]


@given(cells, st.data())
def test_the_front_of_what_is_whole_is_always_shown(
    points: list[tuple[float, float]], data: st.DataObject
) -> None:
    effects, costs = zip(*points, strict=True)
    feasible = data.draw(st.lists(st.booleans(), min_size=len(points), max_size=len(points)))
    numbers = [index for index, there in enumerate(feasible) if there]
    alone = pareto([effects[number] for number in numbers], [costs[number] for number in numbers])
    shown = pareto(effects, costs, feasible)
    assert {points[numbers[point]] for point in alone} <= {points[point] for point in shown}
    assert set(pareto(effects, costs)) <= set(shown)


@given(cells)
def test_no_cell_beats_one_of_the_front_and_one_beats_every_other(
    points: list[tuple[float, float]],
) -> None:
    effects, costs = zip(*points, strict=True)
    front = pareto(effects, costs)

    def beats(a: int, b: int) -> bool:
        no_worse = effects[a] >= effects[b] and costs[a] <= costs[b]
        return no_worse and points[a] != points[b]

    for index in range(len(points)):
        beaten = any(beats(other, index) for other in range(len(points)))
        alike = any(points[index] == points[other] for other in front)
        assert alike != beaten
    assert [effects[point] for point in front] == sorted({effects[point] for point in front})


@given(cells, st.floats(0, 10))
def test_what_a_budget_chooses_lies_on_its_front(
    points: list[tuple[float, float]], budget: float
) -> None:
    effects, costs = zip(*points, strict=True)
    chosen = strongest(effects, costs, budget)
    if chosen is not None:
        within = [effects[point] for point in pareto(effects, costs) if costs[point] <= budget]
        assert effects[chosen] == within[-1]


def test_what_is_no_number_is_left_out() -> None:
    good = Candidate(0, -1.0, 1.0, 0.0)
    assert refusal_direction([Candidate(0, math.nan, 1.0, 0.0), good], 4) == [1]


@needs_shared
@pytest.mark.parametrize(
    ("model", "n_layers"), [("gemma-2b-it", 18), ("meta-llama-3-8b-instruct", 32)]
)
def test_refusal_direction_chooses_what_its_authors_chose(model: str, n_layers: int) -> None:
    folder = SHARED / "data/refusal_direction" / model
    scores, filtered, chosen = (
        json.loads((folder / f"direction_{name}.json").read_text())
        for name in ("evaluations", "evaluations_filtered", "metadata")
    )
    candidates = [
        Candidate(
            score["layer"], score["refusal_score"], score["steering_score"], score["kl_div_score"]
        )
        for score in scores
    ]
    passed = refusal_direction(candidates, n_layers)
    assert len(passed) == len(filtered)
    best = scores[passed[0]]
    assert {"pos": best["position"], "layer": best["layer"]} == chosen
