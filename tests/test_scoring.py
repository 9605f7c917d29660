"""Scores of many cells in shared batches are those of each cell and text alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from families import FAMILIES
from torch import Tensor

from steer.base.errors import HookError, InputError
from steer.distillation.recovery import token_kl
from steer.evaluation import scoring
from steer.evaluation.batches import (
    Text,
    TokenMeasure,
    distance,
    drift,
    log_prob,
    packed,
    surprise,
)
from steer.evaluation.cells import (
    PROMPTED,
    UNSTEERED,
    Cell,
    PromptedCell,
    SteeredCell,
    UnsteeredCell,
)
from steer.evaluation.scoring import Sums
from steer.hooks import trunk
from steer.hooks.clock import TokenClock
from steer.hooks.gates import prompt_values
from steer.hooks.inject import injected
from steer.hooks.trunk import can_restrict_last_mlp, takes_trunks
from steer.models.model import Model
from steer.steering.operation import Coefficient, Operation
from steer.steering.projection import Gate, Pooling, Projection, Threshold
from steer.steering.scope import EVERYWHERE, Scope, parse_schedule, parse_scope
from steer.steering.steers import Steer

#: A cell, or the steers of one.
Way = tuple[Steer, ...] | UnsteeredCell | PromptedCell


def _steers(way: Way) -> tuple[Steer, ...]:
    return way if isinstance(way, tuple) else ()


def cells_of(ways: Sequence[Way]) -> list[Cell]:
    return [SteeredCell(way) if isinstance(way, tuple) else way for way in ways]


def score(model: Model, texts: Sequence[Text], ways: Sequence[Way], measure: TokenMeasure) -> Sums:
    return scoring.score(model, texts, cells_of(ways), measure)


each_family = pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "bloom", "mixtral"])


def text(length: int, start: int, seed: int) -> Text:
    """Random tokens, two of them special, scored from `start`, and the same after three others."""
    ids = tuple(np.random.default_rng(seed).integers(3, 60, length).tolist())
    ids = (1, *ids[1:-2], 2, ids[-1])
    return Text(ids, tuple(range(start, length)), start, (1, 40, 41, *ids))


def branch(first: Text, n_shared: int, length: int, start: int, seed: int) -> Text:
    """A text that begins like another one."""
    own = text(length, start, seed)
    ids = (*first.ids[:n_shared], *own.ids[n_shared:])
    return replace(own, ids=ids, conditioned=(1, 40, 41, *ids))


#: Two answers to one prompt, a shorter prompt that begins alike, and texts with nothing in common.
PROMPT = text(14, 8, 4)
TEXTS = [
    text(9, 3, 0),
    branch(PROMPT, 5, 11, 6, 5),
    text(5, 2, 1),
    PROMPT,
    text(12, 6, 2),
    branch(PROMPT, 10, 16, 8, 6),
    text(9, 2, 3),
]


def logits(model: Model, text: Text, cell: Way) -> Tensor:
    """Log-probabilities at the scored positions, of one text under one cell, alone."""
    ids = text.conditioned if cell is PROMPTED else text.ids
    values = prompt_values(model, _steers(cell), [text.ids[: text.start]])
    clock = TokenClock(text.start, torch.zeros(1, dtype=torch.int64), values)
    with torch.no_grad(), injected(model, _steers(cell), clock):
        logits = model.network(torch.tensor([ids]), use_cache=False).logits[0].float()
    first = len(ids) - len(text.ids) - 1
    return logits[[first + position for position in text.scored]].log_softmax(-1)


def alone(model: Model, cells: list[Way]) -> dict[str, np.ndarray]:
    """Every measure of every cell [cell, text], one at a time."""
    names = ("log_prob", "drift", "distance", "surprise")
    sums: dict[str, list[list[float]]] = {name: [] for name in names}
    baselines = [[logits(model, text, cell) for cell in (UNSTEERED, PROMPTED)] for text in TEXTS]
    for cell in cells:
        rows: dict[str, list[float]] = {name: [] for name in sums}
        for text, (base, expected) in zip(TEXTS, baselines, strict=True):
            steered = logits(model, text, cell)
            targets = torch.tensor([text.ids[position] for position in text.scored])
            rows["log_prob"].append(float(steered.gather(1, targets[:, None]).sum()))
            rows["drift"].append(float(token_kl(base, steered).sum()))
            rows["distance"].append(float(token_kl(expected, steered).sum()))
            rows["surprise"].append(float(-(steered.exp() * base).sum()))
        for name, values in rows.items():
            sums[name].append(values)
    return {name: np.array(values) for name, values in sums.items()}


def agree(model: Model, cells: list[Way]) -> None:
    expected = alone(model, cells)
    for measure in (log_prob, drift, distance, surprise):
        scores = score(model, TEXTS, cells, measure)
        np.testing.assert_allclose(scores, expected[measure.__name__], rtol=2e-4, atol=2e-4)


@each_family
def test_cells_in_a_batch_are_cells_alone(family: str) -> None:
    model = tiny.model(family)
    low_rank = tiny.low_rank_steer(model, 0.7, layers=(0,))
    agree(
        model,
        [
            (tiny.steer(model, 3, layers=(1,)),),
            UNSTEERED,
            (tiny.steer(model, -2, layers=(1, 2), seed=1), tiny.steer(model, 1, layers=(0,))),
            PROMPTED,
            (low_rank,),
        ],
    )


def test_tokens_that_texts_share_run_once() -> None:
    model = tiny.model("llama")
    widths: list[int] = []
    embedding = model.network.get_input_embeddings()
    with embedding.register_forward_hook(
        lambda module, args, output: widths.append(args[0].numel())
    ):
        score(model, [TEXTS[3], TEXTS[5]], [UNSTEERED], log_prob)
    assert widths[-1] == 14 + 16 - 10


def test_a_token_is_shared_only_where_it_is_steered_alike() -> None:
    """The last token of a prompt is steered as its response, and those before it as the prompt."""
    model = tiny.model("llama")
    start = TEXTS[3].start
    alike = replace(TEXTS[3], start=start + 3, scored=TEXTS[3].scored[3:])
    [row] = packed(model, [TEXTS[3], alike], 99)
    assert row.shared == (0, start - 1)
    rows = packed(model, [TEXTS[3], TEXTS[1], TEXTS[5]], 99, by_prompt=True)
    assert sorted(row.shared for row in rows) == [(0,), (0, 10)]


@each_family
def test_a_trunk_changes_nothing(family: str) -> None:
    """Also the layers after one another, as a sweep goes, each from the trunk of the one below."""
    model = tiny.model(family)
    groups = scoring.in_groups(model, TEXTS, 2)
    scorer = scoring.Scorer(model, [[TEXTS[index] for index in group] for group in groups], drift)
    for layer in range(model.n_layers):
        cells: list[Way] = [(tiny.steer(model, c, layers=(layer,)),) for c in (2.0, -1.0)]
        expected = alone(model, cells)["drift"]
        for group, indices in enumerate(groups):
            scores = scorer.score(group, cells_of(cells))
            np.testing.assert_allclose(scores, expected[:, indices], rtol=2e-4, atol=2e-4)


def test_most_families_take_trunks() -> None:
    takers = [family for family in FAMILIES if takes_trunks(tiny.model(family))]
    assert len(takers) >= len(FAMILIES) - 2, set(FAMILIES) - set(takers)


def test_the_last_mlp_of_most_families_runs_where_something_is_scored_alone() -> None:
    spared = [family for family in FAMILIES if can_restrict_last_mlp(tiny.model(family))]
    assert len(spared) >= len(FAMILIES) - 2, set(FAMILIES) - set(spared)
    model = tiny.model("llama")
    widths: list[int] = []
    mlp = model.network.model.layers[-1].mlp.up_proj
    with mlp.register_forward_hook(lambda module, args, output: widths.append(output.shape[1])):
        score(model, [text(9, 7, 0)], [(tiny.steer(model, 2, layers=(0,)),)], drift)
    assert widths == [9, 2]  # unsteered, for what lies below; steered


@pytest.mark.parametrize(
    "scope", [Scope("response"), Scope("prompt"), Scope("range", 2, 4), Scope("range", 3)], ids=str
)
def test_scopes_are_those_of_each_text(scope: Scope) -> None:
    for family in ("llama", "gpt2"):
        model = tiny.model(family)
        steer, edit = (make(model, 3, scope) for make in (tiny.steer, tiny.low_rank_steer))
        agree(model, [(steer,), (edit,), (steer, edit, tiny.steer(model, 1, EVERYWHERE))])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_op_and_schedule_is_done_as_on_each_text_alone(family: str) -> None:
    model = tiny.model(family)
    steer = tiny.steer(model, 1.0, layers=(1,))
    added = replace(steer, coefficient=Coefficient(3.0))
    for op in (
        Operation("ablate"),
        Operation("clamp", 2.0),
        Operation("cap", "mid"),
        Operation("rotate", 40.0),
    ):
        agree(model, [(replace(steer, op=op),), (added, replace(steer, op=op)), UNSTEERED])
    agree(
        model,
        [
            (replace(added, op=Operation(keep_norm=True)),),
            (replace(added, schedule=parse_schedule("decay=2")),),
            (replace(added, schedule=parse_schedule("ramp=3"), scope=parse_scope("response")),),
            (replace(added, schedule=parse_schedule("on=1-2")),),
            (replace(added, scope=parse_scope("not-response=0-1")),),
            (replace(added, scope=Scope(skip_special=True)),),
        ],
    )


def test_an_op_at_every_write_is_done_below_the_vectors_layer_too() -> None:
    """Its layer is where the vector is from, and no trunk may hide what lies below."""
    model = tiny.model("llama")
    everywhere = replace(tiny.steer(model, layers=(2,)), op=Operation("ablate", writes=True))
    agree(model, [(everywhere,), (tiny.steer(model, 2, layers=(2,)),)])


@pytest.mark.parametrize("pooling", ["mean", "last", "token"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_gates_open_as_they_do_for_each_text_alone(family: str, pooling: Pooling) -> None:
    """They read below the steer, where a trunk could hide what is read."""
    model = tiny.model(family)
    reading = Projection(tiny.vector(model, layers=(0,), seed=5), 0)
    probe = Gate(Threshold(reading, True, 0.0), "mean" if pooling == "token" else pooling)
    prompts = [text.ids[: text.start] for text in TEXTS]
    (values,) = prompt_values(model, [replace(tiny.steer(model), gate=probe)], prompts).values()
    cells: list[Way] = []
    for above in (True, False):
        # Halfway between two of six prompts, so that rounding decides nothing.
        middle = float(np.median(np.unique(values)))
        gate = Gate(Threshold(reading, above, middle), pooling)
        cells.append((replace(tiny.steer(model, 4, layers=(2,)), gate=gate),))
    agree(model, cells)
    sums = score(model, TEXTS, cells, drift)
    acted = sums > 1e-6
    assert acted.any(axis=1).all()
    if pooling != "token":
        assert (acted.sum(axis=0) == 1).all()  # of a gate and its contrary, one is open


def test_a_gate_of_prompts_needs_a_prompt() -> None:
    model = tiny.model("llama")
    gate = Gate(Threshold(Projection(tiny.vector(model), 1), True, 0.0), "mean")
    steer = replace(tiny.steer(model), gate=gate)
    for none in (Text((5, 6), (1,)), Text((1, 5, 6), (2,), 1)):  # nothing, or the first token
        with pytest.raises(InputError, match="reads prompts, but a text has none"):
            score(model, [TEXTS[0], none], [(steer,)], drift)


@pytest.mark.parametrize("site", ["attn_out", "mlp_out", "resid_pre"])
def test_other_sites(site: str) -> None:
    """Also where a scope begins, in the last layer too, whose MLP runs at some positions only."""
    model = tiny.model("llama")
    for scope in (EVERYWHERE, Scope("response")):
        agree(
            model,
            [(tiny.steer(model, 2, scope, layers=(layer,), site=site),) for layer in range(3)],
        )


def test_what_is_nothing_is_exactly_nothing() -> None:
    model = tiny.model("llama")
    zero: Cell = (tiny.steer(model, 0, layers=(1,)),)
    nothing, added = score(model, TEXTS, [UNSTEERED, zero], drift)
    assert not nothing.any()
    np.testing.assert_allclose(added, 0, atol=1e-5)
    assert not score(model, TEXTS, [PROMPTED], distance).any()


def test_a_text_with_nothing_to_score_is_0() -> None:
    model = tiny.model("llama")
    for texts in ([Text((5,), ())], [Text((5,), ()), TEXTS[0]]):
        assert score(model, texts, [UNSTEERED], log_prob)[0, 0] == 0


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """MemoryBudget for a text and two cells at a time."""
    monkeypatch.setattr(scoring, "token_budget", lambda model: 24)
    monkeypatch.setattr(scoring, "LOGITS_BUDGET", 1)
    yield


def test_short_memory_changes_nothing(small: None) -> None:
    model = tiny.model("llama")
    agree(model, [(tiny.steer(model, c, layers=(1,)),) for c in (1.0, 2.0, 3.0)] + [PROMPTED])


def test_a_model_that_takes_no_trunk_is_run_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model("llama")
    monkeypatch.setattr(scoring, "takes_trunks", lambda model: False)
    monkeypatch.setattr(scoring, "trunk_at", lambda *_: pytest.fail("a trunk"))
    agree(model, [(tiny.steer(model, 2, layers=(1,)),)])


def test_a_model_with_a_side_channel_is_found_out() -> None:
    """A block that hands on more than activations gives another result from a trunk."""
    model = tiny.wrapped(tiny.build("llama"), "side")
    first, last = model.network.model.layers[0], model.network.model.layers[2]
    seen: list[Tensor] = []
    first.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    last.register_forward_hook(lambda module, args, output: output + seen.pop())
    assert not takes_trunks(model)


def test_the_model_is_left_as_it_was() -> None:
    model = tiny.model("llama")
    ids, _ = model.padded([TEXTS[0].ids], left=False)
    before = model.network(ids).logits
    trunk_at = trunk.trunk_at(model, ids, 1, None)
    with pytest.raises(RuntimeError, match="stop"), trunk.replayed(model, trunk_at):
        raise RuntimeError("stop")
    assert all("forward" not in vars(block) for block in model.network.model.layers)
    assert torch.equal(model.network(ids).logits, before)


def test_a_cell_that_is_never_applied_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.wrapped(tiny.build("llama"), "skips")
    model.network.model.layers = model.network.model.layers[:2]
    with pytest.raises((HookError, AttributeError)):
        score(model, TEXTS, [(tiny.steer(model, 1, layers=(2,)),)], drift)


def test_free_memory_may_change_while_texts_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from one worker to another: which texts go together is settled once."""
    model = tiny.model("llama")
    cells: list[Way] = [UNSTEERED, (tiny.steer(model, 2.0),)]
    expected = score(model, TEXTS, cells, drift)
    budgets = itertools.cycle([24, 4_096])
    monkeypatch.setattr(scoring, "token_budget", lambda model: next(budgets))
    np.testing.assert_allclose(score(model, TEXTS, cells, drift), expected, rtol=2e-4, atol=2e-4)
