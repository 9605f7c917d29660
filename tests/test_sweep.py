"""`steer sweep`: the same numbers however it is run, and nothing recommended that earns it not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import tiny
from conftest import make_vector
from test_cli import PAIRS, failed, steer

from steer.base.errors import SteerError, UsageError
from steer.base.intervals import Interval
from steer.cli import sweep as sweep_command
from steer.evaluation.choice import (
    LINES,
    Budget,
    TriedCell,
    _edge,
    _record_lows,
    cell_trial,
    choose,
    ordered,
)
from steer.evaluation.scoring import Scorer
from steer.evaluation.sweep_grid import grid_of as swept_grid
from steer.evaluation.verdict import Repeat, _instability, _neighbours
from steer.measures import pictures, report
from steer.measures.grids import (
    FINER_ROWS,
    SHARES,
    Grid,
    GridRow,
    Scores,
    default_coefficients,
    finer,
    join_scores,
)
from steer.measures.heat import heat_map
from steer.pocket.pairs import story_pairs
from steer.steering.operation import Coefficient
from steer.vectors import store


def grid_of(n_rows: int, shares: tuple[float, ...]) -> Grid:
    layers = tuple(range(n_rows))
    identity = make_vector().metadata.model
    vector = make_vector(tiny.msgspec.structs.replace(identity, n_layers=n_rows), layers=layers)
    columns = tuple(Coefficient(share, "residual") for share in shares)
    return Grid(tuple(GridRow(vector, (layer,), columns, "joyful") for layer in layers))


def scores_of(
    effects: Any, costs: Any, levels: Any = None, spread: float = 0.0, n: int = 8
) -> Scores:
    """n items a cell, alternately above and below the cell's effect by `spread`."""
    effect = np.asarray(effects, float)[..., None] + spread * np.resize([1.0, -1.0], n)
    drift = np.repeat(np.asarray(costs, float)[..., None], 3, axis=-1)
    level = np.repeat(np.asarray(effects if levels is None else levels, float)[..., None], n, -1)
    return Scores("preference", effect, np.ones(n), drift, np.ones(3), level)


def unstable(
    scores: Scores,
    grid: Grid,
    budget: Budget,
    position: tuple[int, int],
    *,
    refused: Any = (),
    nats: Any = None,
) -> str:
    """How halves disagree where texts have these extra nats; none, where not said."""
    look, _ = look_of(dict.fromkeys(np.ndindex(scores.effect.shape[:2]), 0.0) | (nats or {}))
    return _instability(scores, grid, budget, position, refused, look)


def test_the_order_is_the_rules() -> None:
    grid = grid_of(2, (0.1, 0.2))
    scores = scores_of([[1, 5], [3, -1]], [[0.0, 0.5], [0.05, 0.0]])
    assert ordered(scores, grid, Budget(kl=0.1)) == [(1, 0), (0, 0)]
    assert ordered(scores, grid, Budget(kl=1)) == [(0, 1), (1, 0), (0, 0)]
    assert ordered(scores, grid, Budget(kl=-1)) == []


def test_the_rule_of_refusal_direction_takes_both_signs() -> None:
    grid = grid_of(10, (0.2, -0.2))
    added, removed = np.linspace(1, 2, 10), -np.linspace(1, 2, 10)
    added[6] = -0.5  # adding does not induce
    costs = np.zeros((10, 2))
    costs[7, 1] = 0.2  # taking out moves too much; layers 8 and 9 are the last fifth
    scores = scores_of(np.zeros((10, 2)), costs, np.stack([added, removed], 1))
    order = ordered(scores, grid, Budget(rule="refusal_direction"))
    assert order == [(row, 0) for row in (5, 4, 3, 2, 1, 0)]


def test_halves_that_disagree_are_unstable() -> None:
    grid, budget = grid_of(4, (0.1,)), Budget(kl=1)
    costs = np.zeros((4, 1))
    steady = scores_of([[1], [2], [1], [0]], costs)
    assert unstable(steady, grid, budget, (1, 0)) == ""
    effect = steady.effect.copy()
    effect[3, 0, ::2] = 9.0  # for half of the items the last layer is best
    torn = replace(steady, effect=effect)
    assert "layer 3" in unstable(torn, grid, budget, (1, 0))
    noisy = scores_of([[1], [2], [1], [0]], costs, spread=1.0, n=24)
    assert "an effect of" in unstable(noisy, grid, budget, (1, 0))


def test_neighbours_are_told_by_their_layers() -> None:
    grid = grid_of(4, (0.1,))
    twice = Grid(grid.rows + grid.rows[:1])
    near = [_neighbours(twice, twice.rows[4], row) for row in twice.rows]
    assert near == [True, True, False, False, True]


def test_finer_shares_lie_about_the_edge_of_the_budget() -> None:
    grid = grid_of(3, SHARES)
    costs = np.array([10 * share**2 for share in SHARES])
    scores = scores_of(np.outer([1.0, 3.0, 2.0], SHARES), np.tile(costs, (3, 1)))
    edge = max(share for share in SHARES if 10 * share**2 <= 0.1)
    more = finer(grid, scores, 0.1)
    assert more is not None
    assert [row.layers for row in more.rows] == [(1,), (2,), (0,)]
    for row in more.rows:
        shares = [coefficient.value for coefficient in row.coefficients]
        assert len(set(shares)) == len(SHARES)
        assert any(share < edge for share in shares)
        assert any(share > edge for share in shares)
        assert not set(shares) & set(SHARES)
    assert finer(grid, scores, -1.0) is None
    assert finer(grid_of(3, (0.1, 0.2)), scores_of(np.ones((3, 2)), np.zeros((3, 2))), 0.1) is None
    many = scores_of(np.outer(range(1, 8), SHARES), np.tile(costs, (7, 1)))
    best = finer(grid_of(7, SHARES), many, 0.1)
    assert best is not None
    assert [row.layers for row in best.rows] == [(6,), (5,), (4,), (3,)][:FINER_ROWS]
    both = join_scores(scores, scores_of(np.ones((2, 9)), np.zeros((2, 9))))
    assert both.effects().shape == both.costs().shape == (5, 9)


def look_of(nats: dict[tuple[int, int], float]) -> tuple[Any, list[tuple[int, int]]]:
    """What looks at texts, which have these extra nats, and where it has looked."""
    looked: list[tuple[int, int]] = []

    def look(position: tuple[int, int]) -> TriedCell:
        looked.append(position)
        value = Interval(nats[position], 0.0, 1.0)
        return TriedCell(position, value, value, ())

    return look, looked


@pytest.mark.parametrize("passing", range(8))
def test_the_strongest_cell_within_the_nats_is_found(passing: int) -> None:
    positions = [(0, column) for column in range(8)]
    look, looked = look_of(
        {position: 0.0 if position[1] >= passing else 1.0 for position in positions}
    )
    assert _edge(positions, look, 0.5).position == (0, passing)
    assert len(looked) <= 4
    costs = np.array([[5.0, 4.0, 4.5, 3.0]])
    assert _record_lows([(0, 0), (0, 1), (0, 2), (0, 3)], costs) == [(0, 0), (0, 1), (0, 3)]


def chosen_of(
    effects: Any, nats: Any, monkeypatch: pytest.MonkeyPatch
) -> tuple[TriedCell | None, list[tuple[int, int]]]:
    """The choice of a grid whose texts have these extra nats, and where texts were looked at."""
    shape = np.shape(effects)
    grid = grid_of(shape[0], tuple(np.linspace(0.1, 0.9, shape[1])))
    scores = scores_of(effects, np.asarray(effects, float))
    look, looked = look_of(dict(np.ndenumerate(np.asarray(nats, float))))
    monkeypatch.setattr("steer.evaluation.choice._tried", lambda *arguments: look(arguments[2]))
    monkeypatch.setattr("steer.evaluation.choice.expected_nats", lambda *_: None)
    bench = SimpleNamespace(model=None, own=())
    anything: Any = None
    at = cell_trial(cast("Any", bench), grid, anything)
    return choose(grid, scores, Budget(kl=50, nats=0.1), at), looked


def test_each_layer_has_an_edge_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    # Texts at layer 0 cost more than those at layer 1 that do as much.
    effects = [[1.0, 2.0, 3.0, 4.0], [1.5, 2.5, 3.5, 4.5]]
    nats = [[0.0, 0.2, 0.3, 0.4], [0.0, 0.05, 0.09, 0.5]]
    tried, _ = chosen_of(effects, nats, monkeypatch)
    assert tried is not None
    assert tried.position == (1, 2)
    assert (1, 3) in tried.refused
    assert not tried.refused & {(1, 0), (1, 1), (1, 2)}
    tried, _ = chosen_of(effects[::-1], nats[::-1], monkeypatch)
    assert tried is not None
    assert tried.position == (0, 2)
    # And a layer that does less before that can do more within.
    tried, _ = chosen_of([[5.0, 6.0, 7.0], [2.0, 3.0, 4.0]], [[0.0, 9, 9], [9, 9, 9]], monkeypatch)
    assert tried is not None
    assert tried.position == (0, 0)
    tried, _ = chosen_of([[1.0, 6.0, 70], [2.0, 3.0, 4.0]], [[0.0, 9, 9], [0, 0, 9]], monkeypatch)
    assert tried is not None
    assert tried.position == (1, 1)
    # Also what costs too much before: by half of the texts it might not.
    assert tried.refused == {(0, 1), (0, 2), (1, 2)}


def test_texts_are_written_for_few_of_many_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    effects = np.arange(1.0, 9.0) + np.arange(40)[:, None] / 100
    tried, looked = chosen_of(effects, np.tile(np.linspace(0, 0.3, 8), (40, 1)), monkeypatch)
    assert tried is not None
    assert tried.extra_nats.value <= 0.1
    assert len({row for row, _ in looked}) <= LINES
    none, looked = chosen_of(effects, np.ones((40, 8)), monkeypatch)
    assert none is not None
    assert none.extra_nats.value == 1
    assert len(looked) == len(set(looked)) <= 4 * LINES


def test_halves_choose_among_what_was_not_refused() -> None:
    grid, budget = grid_of(4, (0.1,)), Budget(kl=1)
    scores = scores_of([[1], [2], [1], [9]], np.zeros((4, 1)))
    assert "layer 3" in unstable(scores, grid, budget, (1, 0))
    assert unstable(scores, grid, budget, (1, 0), refused={(3, 0)}) == ""
    # Nor does a half lead to where the choice had no reason to look, and texts fall apart.
    apart = {(3, 0): 9.0}
    assert unstable(scores, grid, budget, (1, 0), nats=apart) == ""
    scores = scores_of([[5], [2], [1], [9]], np.zeros((4, 1)))
    assert "layer 0" not in unstable(scores, grid, budget, (2, 0), nats={(0, 0): 9.0, (3, 0): 0.0})


@pytest.mark.parametrize(("new", "stable"), [(0.11, True), (0.15, False)])
def test_the_texts_of_both_seeds_are_within_the_budget(new: float, stable: bool) -> None:
    scores = scores_of([[1]], [[0]])
    again = Repeat(1, 24, scores, Interval(new, 0.0, 1.0))
    assert (again.pooled(Interval(0.09, 0.0, 1.0), 48) <= 0.1) == stable


def test_the_default_grid_suits_the_vector() -> None:
    assert {coefficient.unit for coefficient in default_coefficients(make_vector())} == {"residual"}
    low_rank = tiny.low_rank_steer(tiny.model("llama")).vector
    assert {coefficient.unit for coefficient in default_coefficients(low_rank)} == {"vector"}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture
def joyful(folder: Path) -> str:
    Path("vectors").mkdir()
    Path("joyful.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    held = [{"positive": f"w{i} w{i + 3}", "negative": f"w{i} w{i + 7}"} for i in range(30, 42)]
    Path("held.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in held))
    assert steer("extract", "joyful.jsonl", "-m", folder).exit_code == 0
    return "joyful"


def run(folder: Path, *words: object) -> Any:
    few = ["--samples", 4, "--max-tokens", 6, "--coefficients", "5%,20%,-10%"]
    return steer("sweep", "-m", folder, "-v", "joyful", *few, *words)


def test_a_sweep_that_was_killed_goes_on_to_the_same(
    joyful: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = run(folder, "--texts", "held.jsonl", "--json")
    original, calls = Scorer.score, 0

    def dying(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(Scorer, "score", dying)
    assert run(folder, "--texts", "held.jsonl", "--json").exit_code == 130
    monkeypatch.setattr(Scorer, "score", original)
    resumed = run(folder, "--texts", "held.jsonl", "--json")
    assert "resuming an interrupted sweep" in resumed.stderr
    assert json.loads(resumed.stdout) == json.loads(complete.stdout)
    assert "going on" not in run(folder, "--texts", "held.jsonl", "--json").stderr


def test_rows_are_shown_without_passwords(joyful: str) -> None:
    address = "ssh://me:se%40cret@host/team/joyful"
    path = Path("vectors/joyful.safetensors")
    rows = swept_grid([address, "joyful:norm=keep"], "1", "5%", find=lambda _: path).rows
    assert [row.reference for row in rows] == ["ssh://me@host/team/joyful", "joyful"]
    assert rows[0].typed(0) == "ssh://me@host/team/joyful:5%@1"


def test_what_is_measured_with_the_same_seed_was_not_chosen_on(joyful: str, folder: Path) -> None:
    words = ["-m", folder, "-v", "joyful", "--condition", "w50", "--samples", 4, "--json"]
    swept = json.loads(steer("sweep", *words).stdout)
    measured = json.loads(steer("eval", *words).stdout)
    assert swept["seed"] == measured["seed"]
    [unsteered] = [row for row in measured["rows"] if row["kind"] == "unsteered"]
    assert not set(unsteered["samples"]) & set(swept["unsteered_samples"])


def test_a_full_disk_does_not_cost_the_scores(
    joyful: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise SteerError("no room")

    options = ("--texts", "held.jsonl", "--seed", 7, "-o", "sweep.json")
    with monkeypatch.context() as patched:
        patched.setattr(sweep_command, "_write", full)
        assert run(folder, *options).exit_code == 1
    again = run(folder, *options)
    assert "resuming an interrupted sweep" in again.stderr
    assert Path("sweep.json").is_file()


def test_what_cannot_be_swept_says_so(
    joyful: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steer.cli.options.load_model", lambda source: pytest.fail("loaded"))
    held = ["--texts", "held.jsonl"]
    failed(run(folder), 1, "no data to measure an effect on", "--texts")
    failed(run(folder, "--texts", "joyful.jsonl"), 1, "made from 24 of these")
    failed(run(folder, *held, "-v", "joyful:2"), 2, "chooses layers and coefficients itself")
    failed(run(folder, *held, "-v", "joyful:ablate"), 1, "a percentage is a length to add")
    failed(run(folder, *held, "-v", "joyful:add/decay=5"), 2, "a sweep steers", "steer eval")
    failed(run(folder, *held, "-v", "joyful:ablate/on=0-3"), 2, "a sweep steers", "steer eval")
    failed(run(folder, *held, "-v", "joyful"), 2, "twice")
    failed(run(folder, *held, "-v", "joyfull"), 1, "did you mean 'joyful'?")
    failed(run(folder, *held, "--coefficients", "5%,x"), 2, "'x' is not a number")
    failed(run(folder, *held, "--coefficients", "5%,5%"), 2, "twice")
    failed(run(folder, *held, "--layers", "9"), 1, "no layer 9")
    failed(run(folder, *held, "--rule", "best"), 2, "not a rule")
    for wild in ("inf", "nan", "-1"):
        failed(run(folder, *held, "--max-kl", wild), 2, "numbers, 0 or more")
        failed(run(folder, *held, "--max-nats", wild), 2, "numbers, 0 or more")
    failed(run(folder, "--condition", "w5", "--rule", "refusal_direction"), 2, "held-out pairs")
    failed(run(folder, *held, "--plot", "x.bmp"), 2, ".png")
    failed(run(folder, *held, "-o", "held.jsonl"), 1, "exists")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    failed(run(folder, *held, "--report", "x.html"), 2, "matplotlib", "steer-activations[plots]")


def test_vectors_and_ops_are_swept_beside_each_other(joyful: str, folder: Path) -> None:
    words = ["--texts", "held.jsonl", "-v", "joyful:norm=keep", "-o", "x.json"]
    result = run(folder, *words)
    assert result.exit_code in (0, 1), result.stderr
    assert "Traceback" not in result.stderr
    report = json.loads(Path("x.json").read_text())
    typed = [cell["typed"] for cell in report["cells"]]
    assert len(set(typed)) == len(typed) == 3 * len(report["rows"])
    kept = ["norm=keep" in spec for spec in typed]
    assert sum(kept) == len(kept) // 2
    assert [
        cell["kl"]["value"] for cell, is_kept in zip(report["cells"], kept, strict=True) if is_kept
    ] != [
        cell["kl"]["value"]
        for cell, is_kept in zip(report["cells"], kept, strict=True)
        if not is_kept
    ]


def test_a_budget_that_nothing_meets_names_the_nearest(joyful: str, folder: Path) -> None:
    before = Path("vectors/joyful.safetensors").read_bytes()
    words = ["--texts", "held.jsonl", "--max-kl", "1e-12", "--save", "-o", "x.json"]
    result = run(folder, *words)
    assert result.exit_code == 1
    assert "error: nothing to recommend: no cell" in result.stderr
    assert "hint: the nearest cell is" in result.stderr
    assert "recommended" not in result.stdout
    saved = json.loads(Path("x.json").read_text())
    assert (saved["recommended"], saved["choice"]["effect"]["value"] > 0) == (False, True)
    assert Path("vectors/joyful.safetensors").read_bytes() == before
    assert "Nothing is recommended" in report.page(saved)


def test_a_few_items_recommend_nothing(joyful: str, folder: Path) -> None:
    few = "".join(Path("held.jsonl").read_text().splitlines(keepends=True)[:3])
    Path("few.jsonl").write_text(few)
    result = run(folder, "--texts", "few.jsonl", "--max-kl", 10, "--max-nats", 10)
    assert result.exit_code == 1
    assert "recommended" not in result.stdout
    for message in ("3 held-out items are too few to exclude chance", "the nearest cell is"):
        assert message in result.stderr


def test_a_vector_from_an_address_is_swept_and_not_written(joyful: str, folder: Path) -> None:
    address = f"file://{Path.cwd()}/vectors/joyful"
    few = ["--samples", 4, "--max-tokens", 6, "--coefficients", "20%", "--texts", "held.jsonl"]
    words = ["sweep", "-m", folder, "-v", address, *few]
    failed(steer(*words, "--save"), 2, "is elsewhere", f"steer pull {address}")
    result = steer(*words, "-o", "far.json")
    assert "Traceback" not in result.stderr
    here = steer("sweep", "-m", folder, "-v", "joyful", *few, "-o", "near.json")
    far, near = (json.loads(Path(name).read_text()) for name in ("far.json", "near.json"))
    assert far["choice"]["typed"] == near["choice"]["typed"].replace("joyful", address)
    assert far["choice"]["effect"] == near["choice"]["effect"]
    assert result.exit_code == here.exit_code


def test_a_random_direction_is_not_recommended(joyful: str, folder: Path) -> None:
    swept_vector = store.read(Path("vectors/joyful.safetensors"))
    noise = np.random.default_rng(7).normal(size=swept_vector.directions.shape)
    norms = np.array([[statistic.norm] for statistic in swept_vector.metadata.statistics])
    noise *= norms / np.linalg.norm(noise, axis=1, keepdims=True)
    vector = type(swept_vector)(swept_vector.metadata, noise.astype(np.float32))
    store.write(Path("vectors/joyful.safetensors"), vector, force=True)
    words = ["--texts", "held.jsonl", "--max-kl", "10", "--max-nats", "10", "--save"]
    result = run(folder, *words)
    assert result.exit_code == 1
    assert "does not beat random directions" in result.stderr
    assert store.read(Path("vectors/joyful.safetensors")).metadata.recommended.unit == "vector"


def test_a_scope_can_be_swept_and_not_saved_if_odd(joyful: str, folder: Path) -> None:
    # At the last layer, before the first response token, nothing that is scored would change.
    few = ["--samples", 4, "--max-tokens", 6, "--coefficients", "5%,40%", "--layers", "0,1"]
    words = ["sweep", "-m", folder, "--texts", "held.jsonl", *few]
    path = Path("vectors/joyful.safetensors")
    before = path.read_bytes()
    choices = [
        json.loads(steer(*words, "-v", spec, "--json").stdout)["cells"]
        for spec in ("joyful", "joyful:add/response=0", "joyful:add/not-response=0")
    ]
    assert choices[1][0]["typed"] == "joyful:5%@0/response=0"
    effects = [[cell["effect"]["value"] for cell in cells] for cells in choices]
    assert effects[0] != effects[1] != effects[2] != effects[0]
    saved = steer(*words, "-v", "joyful:add/not-response=0", "--save")
    assert "nothing was saved" in saved.stderr or saved.exit_code == 1
    assert path.read_bytes() == before


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A sweep of the topic sea on the pocket model, saved: the vector and what was found."""
    position = tmp_path_factory.mktemp("swept")
    for name, seed, n in (("sea", 1, 60), ("held", 2, 16)):
        rows = story_pairs("topic", "sea", "forest", n, seed)
        (position / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    vector = position / "sea.safetensors"
    assert steer("extract", position / "sea.jsonl", "-o", vector).exit_code == 0
    words = ["sweep", "-v", vector, "--texts", position / "held.jsonl", "--save"]
    few = ["--layers", "1-3", "--coefficients", "5%,20%,400%", "--samples", "16"]
    result = steer(*words, *few, "-o", position / "sea.json")
    assert result.exit_code == 0, result.stderr
    (position / "stdout").write_text(result.stdout)
    return vector, json.loads((position / "sea.json").read_text())


def test_a_quick_sweep_has_a_shortlist_and_does_not_say_whether_it_is_stable(
    swept: tuple[Path, dict[str, Any]],
) -> None:
    path, report = swept
    assert (
        report["again"] is not None and report["shortlist"][0]["typed"] == report["choice"]["typed"]
    )
    rows = [cell["layers"] for cell in report["shortlist"]]
    assert len(set(rows)) == len(rows)
    held = ["sweep", "-v", path, "--texts", path.with_name("held.jsonl"), "--layers", "1-3"]
    result = steer(*held, "--coefficients", "5%,20%,400%", "--samples", 8, "--quick", "--json")
    assert result.exit_code == 0, result.stderr
    quick = json.loads(result.stdout)
    assert quick["again"] is None and quick["stable"] is None and quick["instability"]
    assert quick["n"]["items"] == 12
    for cell in quick["shortlist"]:
        assert cell["extra_nats"]["value"] <= quick["budget"]["nats"]
        assert cell["samples"] and cell["shift"] is not None


def test_what_is_saved_is_what_apply_takes(swept: tuple[Path, dict[str, Any]]) -> None:
    path, report = swept
    recommended = store.read(path).metadata.recommended
    assert (recommended.layers, recommended.coefficient, recommended.unit) == (
        (int(report["choice"]["layers"]),),
        float(report["choice"]["coefficient"].removesuffix("%")) / 100,
        "residual",
    )
    assert "preference" in recommended.evidence
    assert "16 held-out items" in recommended.evidence
    words = ["apply", "One day", "--max-tokens", 12]
    plain = steer(*words, "-v", path)
    choice = f"{report['choice']['coefficient']}@{report['choice']['layers']}"
    assert plain.stdout == steer(*words, "-v", f"{path}:{choice}").stdout
    assert plain.stdout != steer(*words).stdout


def test_the_limit_is_the_nearest_strength_that_costs_too_much(
    swept: tuple[Path, dict[str, Any]],
) -> None:
    path, report = swept
    recommended = store.read(path).metadata.recommended
    limit = recommended.limit
    assert limit is not None
    assert limit > recommended.coefficient
    mine = {
        float(cell["coefficient"].removesuffix("%")) / 100: cell["kl"]["value"]
        for cell in report["cells"]
        if cell["layers"] == report["choice"]["layers"]
    }
    beyond = sorted(cell for cell in mine if cell > recommended.coefficient)
    assert limit in beyond
    # What lies between was within the budget, or its texts were; the sweep tried 400 % to be sure.
    assert mine[limit] > report["budget"]["kl"] or limit < beyond[-1]
    assert mine[beyond[-1]] > report["budget"]["kl"]


def test_what_is_chosen_is_within_its_budget_and_beats_chance(
    swept: tuple[Path, dict[str, Any]],
) -> None:
    _, report = swept
    choice = report["choice"]
    within = [cell for cell in report["cells"] if cell["kl"]["value"] <= report["budget"]["kl"]]
    assert choice in within
    assert choice in report["front"]
    assert report["extra_nats"]["value"] <= report["budget"]["nats"]
    assert choice["effect"]["value"] > report["chance"] >= max(report["random_effects"])
    # What does more within the KL is out, and said to be.
    for cell in within:
        assert cell["refused"] or cell["effect"]["value"] <= choice["effect"]["value"]
    assert not choice["refused"]
    assert report["margin"]["low"] > 0
    assert len(report["cells"]) == 3 * 3
    assert len(report["shifts"]) == report["n"]["items"] == 16


def test_the_table_is_plain_in_a_pipe(swept: tuple[Path, dict[str, Any]]) -> None:
    path, report = swept
    stdout = (path.parent / "stdout").read_text()
    assert "\x1b" not in stdout
    assert f"recommended: {path}:{report['choice']['coefficient']}" in stdout
    rows = [line for line in stdout.splitlines() if line.startswith("layer ")][:3]
    assert sum("*" in row for row in rows) == 1
    assert all("(" in row for row in rows)  # 400% is above any budget


def test_rows_that_are_to_come_are_drawn_as_such() -> None:
    from rich.console import Console

    grid = grid_of(2, (0.1, 0.2))
    scores = scores_of([[1, 2], [np.nan] * 2], [[0, 9], [np.nan] * 2])
    for kept_scores in (scores, None):
        console = Console(width=60, no_color=True)
        with console.capture() as captured:
            console.print(heat_map(grid, kept_scores, 0.1, width=60, caption="layer 1, 50%"))
        assert "·" in captured.get()
        assert ("(2.00)" in captured.get()) == (kept_scores is not None)


def test_pictures_are_the_same_bytes_and_the_page_stands_alone(
    swept: tuple[Path, dict[str, Any]],
) -> None:
    _, swept_report = swept
    for kind, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        picture = pictures.draw(swept_report, kind)
        assert picture.startswith(start)
        assert picture == pictures.draw(swept_report, kind)
    page = report.page(swept_report | {"samples": ["<script>alert(1)</script>\x1b[2J"]})
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "\x1b" not in page
    assert 'src="data:' in page
    assert not any(outside in page for outside in ("http://", "https://", "<link"))
    with pytest.raises(UsageError, match="does not end in"):
        pictures.check_format(Path("x.gif"))
