"""What a steer did is counted in bits, per row; what it cannot do is known before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_injection import OPS, acting, gated

from steer.base.errors import IdleError, VectorError
from steer.base.journal import Journal
from steer.evaluation.batches import Text, drift
from steer.evaluation.cells import SteeredCell, UnsteeredCell
from steer.evaluation.scoring import score, scored
from steer.generate.apply import Sampling, generate
from steer.hooks import acting as acting_module
from steer.models.model import Model
from steer.steering.generation import Generation
from steer.steering.operation import Coefficient, Operation
from steer.steering.projection import Gate, Threshold
from steer.steering.reach import meets
from steer.steering.scope import CONSTANT, Schedule, Scope
from steer.steering.steers import Steer
from steer.vectors.vector import SteeringVector

PROMPTS = ["w5 w9", "w12 w7 w33 w8 w41 w6 w19", "w60", "w4 w4 w50 w21"]


def written(
    model: Model, prompts: Sequence[str], steers: Sequence[Steer], n: int, **options: object
) -> list[Generation]:
    sampling = Sampling(max_tokens=n, temperature=0, **options)  # type: ignore[arg-type]
    return list(generate(model, prompts, steers, sampling, allow_idle=True))


small = st.integers(0, 6)
spans = st.tuples(small, st.none() | small).map(
    lambda span: span if span[1] is None else (min(span), max(span))  # type: ignore[type-var]
)
scopes = st.builds(
    lambda kind, span, inverted, special: Scope(
        kind, *(span if kind in ("range", "steps") else (0, None)), inverted, special
    ),
    st.sampled_from(["all", "prompt", "response", "range", "steps"]),
    spans,
    st.booleans(),
    st.booleans(),
)
schedules = st.just(CONSTANT) | st.one_of(
    st.builds(Schedule, st.sampled_from(["ramp", "decay", "first", "after"]), st.integers(1, 6)),
    st.lists(spans, min_size=1, max_size=2).map(lambda pairs: Schedule("on", spans=tuple(pairs))),
)


@given(
    scopes,
    schedules,
    st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=3),
    st.integers(1, 5),
    st.sampled_from([(0,), (1,), (2,), (0, 2)]),
    st.sampled_from(["resid_post", "mlp_out", "resid_pre"]),
)
@settings(max_examples=250)
def test_what_is_known_before_is_what_happens(
    scope: Scope,
    schedule: Schedule,
    prompts: list[str],
    n: int,
    layers: tuple[int, ...],
    site: str,
) -> None:
    model = tiny.model("llama")
    steer = replace(
        tiny.steer(model, 3.0, scope, layers=layers, site=site), layers=layers, schedule=schedule
    )
    last = model.n_layers - 1
    behind = all(site.layer == last for site in steer.sites())
    steered, plain = (written(model, prompts, some, n) for some in ([steer], []))
    expected = []
    for prompt, generation, beside in zip(prompts, steered, plain, strict=True):
        ids = model.encode(prompt)
        special = [token in model.special_ids for token in ids]
        can = meets(scope, schedule, len(ids), n, special, only_writing=behind)
        expected.append(can)
        if not can:
            assert generation.text == beside.text
            assert generation.idle == [str(steer)]
        elif not scope.skip_special:  # else the new tokens may be special ones
            assert not generation.idle
    sampling = Sampling(max_tokens=n, temperature=0)
    if any(expected):
        return
    with pytest.raises(IdleError, match="would act nowhere"):
        next(generate(model, prompts, [steer], sampling))


each_family = pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mpt"])
each_op = pytest.mark.parametrize("name", OPS)


@each_family
@each_op
def test_a_row_says_in_a_batch_what_it_says_alone(family: str, name: str) -> None:
    model = tiny.model(family)
    for when in (
        {"scope": Scope("range", 4)},
        {"scope": Scope("prompt")},
        {"scope": Scope("range", 0, 0, skip_special=True)},
        {"schedule": Schedule("after", 3)},
        {"gate": gated(model, "mean")},
        {"gate": gated(model, "token"), "scope": Scope("steps", 2)},
    ):
        if name == "writes" and getattr(when.get("gate"), "pooling", "") == "token":
            continue  # it acts before any gate could read
        steers = [acting(model, name, **when), tiny.steer(model, 0.5)]
        together = written(model, PROMPTS, steers, 4)
        alone = [written(model, [prompt], steers, 4)[0] for prompt in PROMPTS]
        for field in ("idle", "unreached"):
            assert [getattr(generation, field) for generation in together] == [
                getattr(generation, field) for generation in alone
            ]


@each_op
@pytest.mark.parametrize("samples", [1, 2])
def test_a_row_that_is_not_idle_is_written_otherwise_at_its_first_logits(
    name: str, samples: int
) -> None:
    """Idle rows are the unsteered ones, whatever the op; strong steers on all positions are not."""
    model = tiny.model("llama")
    steer = acting(model, name, scope=Scope("range", 4))
    steered, plain = (written(model, PROMPTS, some, 2, samples=samples) for some in ([steer], []))
    for generation, beside in zip(steered, plain, strict=True):
        if generation.idle or generation.unreached:
            assert generation.text == beside.text
    named = [bool(generation.idle) for generation in steered]
    short = [len(model.encode(generation.prompt)) + 2 - 1 <= 4 for generation in steered]
    assert named == short


def test_beams_tell_of_each_prompt() -> None:
    model = tiny.model("llama")
    steer = tiny.steer(model, 3.0, Scope("range", 5))
    sampling = {"beams": 3, "samples": 2}
    generations = written(model, PROMPTS, [steer], 2, **sampling)
    idle = [len(model.encode(generation.prompt)) + 1 <= 5 for generation in generations]
    assert [bool(generation.idle) for generation in generations] == idle
    assert any(idle) and not all(idle)


def nothing(model: Model) -> Steer:
    zeros = tiny.vector(model)
    return Steer(
        SteeringVector(zeros.metadata, 0 * zeros.directions), Coefficient(1), zeros.metadata.layers
    )


def test_what_adds_nothing_is_refused_before() -> None:
    model = tiny.model("llama")
    steer = tiny.steer(model, 1.0)
    sampling = Sampling(max_tokens=2, temperature=0)
    for steers in (
        [tiny.steer(model, 1e-60)],
        [steer, replace(steer, coefficient=Coefficient(-1.0))],
        [nothing(model)],
    ):
        with pytest.raises(IdleError, match="it adds 0"):
            next(generate(model, PROMPTS, steers, sampling))
        assert all(generation.idle for generation in written(model, PROMPTS, steers, 2))
    assert not any(
        generation.idle for generation in written(model, PROMPTS, [tiny.steer(model, 0.0)], 2)
    )


@pytest.mark.parametrize("when", [{}, {"scope": Scope("response")}])
def test_an_addition_below_the_precision_of_the_activations_is_idle(when: dict[str, Scope]) -> None:
    model = tiny.wrapped(tiny.build("llama").to(torch.bfloat16), "tiny-half")
    for coefficient, is_idle in ((1e-7, True), (1.0, False)):
        steer = replace(tiny.steer(model, coefficient), **when)
        generations = written(model, PROMPTS, [steer], 3)
        assert [bool(generation.idle) for generation in generations] == [is_idle] * len(PROMPTS)
    with pytest.raises(IdleError, match="changed nothing in any of the 4 texts"):
        list(generate(model, PROMPTS, [tiny.steer(model, 1e-7)], Sampling(3, 0)))
    # What is too small is not hidden by what acts beside it.
    both = [tiny.steer(model, 1.0), replace(tiny.steer(model, 1e-7, seed=3), scope=Scope("prompt"))]
    assert all(generation.idle == [str(both[1])] for generation in written(model, PROMPTS, both, 3))


@pytest.mark.parametrize("coefficient", [1e20, 1e36])
def test_what_overflows_is_refused(coefficient: float) -> None:
    model = tiny.model("llama")
    for steer in (
        tiny.steer(model, coefficient),
        replace(tiny.steer(model), op=Operation("clamp", coefficient)),
    ):
        with pytest.raises(VectorError, match="too large"):
            written(model, PROMPTS, [steer], 2)


def test_a_gate_that_is_open_over_nothing_is_idle_and_a_closed_one_is_not() -> None:
    model = tiny.model("llama")
    gate = gated(model, "mean")
    for scope, n in ((Scope("range", 40), 3), (Scope("response"), 3)):
        steer = replace(tiny.steer(model, 3.0, scope), gate=gate)
        for generation in written(model, PROMPTS, [steer], n):
            [reading] = generation.gates
            assert bool(generation.idle) == (bool(reading.share) and scope.kind == "range")


def test_a_bound_that_nothing_comes_to_is_no_fault() -> None:
    model = tiny.model("llama")
    far = replace(tiny.steer(model), op=Operation("cap", 1e6))
    for generation in generate(model, PROMPTS, [far], Sampling(max_tokens=2, temperature=0)):
        assert (generation.idle, generation.unreached) == ([], [str(far)])
    outside = replace(far, scope=Scope("steps", 9))
    assert all(generation.idle for generation in written(model, PROMPTS, [outside], 2))


def test_nobody_looks_once_all_rows_have_acted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model("llama")
    looks = []
    original = acting_module.ChangeDetector.compare

    def counted(self: acting_module.ChangeDetector, *arguments: object) -> None:
        looks.append(1)
        original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(acting_module.ChangeDetector, "compare", counted)
    for when in ({}, {"scope": Scope("response")}, {"schedule": Schedule("decay", 4)}):
        looks.clear()
        written(model, PROMPTS, [replace(tiny.steer(model, layers=(0, 1, 2)), **when)], 12)
        assert len(looks) <= 6


def test_a_text_that_ended_before_its_steer_began_is_idle_beside_a_longer_one() -> None:
    model = tiny.model("llama")
    [first] = written(model, PROMPTS[:1], [], 1)
    network = tiny.build("llama")
    ending = tiny.wrapped(network, "tiny-ending")
    network.generation_config.eos_token_id = model.encode(first.text, special=False)[0]
    steer = tiny.steer(ending, 3.0, Scope("steps", 2))
    generations = written(ending, PROMPTS, [steer], 5)
    assert generations[0].n_tokens == 0
    for generation in generations:
        assert bool(generation.idle) == (generation.n_tokens + (generation.finish == "end") <= 2)
    assert {bool(generation.idle) for generation in generations} == {True, False}


TEXTS = [
    Text((1, 5, 9, 12, 7), (3, 4), 2),
    Text((1, 33, 8, 41, 6, 19, 60, 4), (5, 6, 7), 4),
    Text((1, 50, 21), (2,), 1),
]


@given(scopes, st.sampled_from([(0,), (1,), (2,)]), st.integers(0, 2))
@settings(max_examples=120)
def test_a_score_under_a_steer_that_moves_no_text_is_an_error(
    scope: Scope, layers: tuple[int, ...], left_out: int
) -> None:
    """Scored without looking, the texts come to what they come to unsteered, and only then."""
    model = tiny.model("llama")
    texts = TEXTS[left_out:]
    cell = SteeredCell((tiny.steer(model, 3.0, scope, layers=layers),))
    drifts = scored(model, texts, [UnsteeredCell(), cell], drift).sums[1]
    if np.abs(drifts).max() > 1e-6:  # less is rounding
        assert (score(model, texts, [UnsteeredCell(), cell], drift)[1] == drifts).all()
    else:
        with pytest.raises(IdleError, match="changed nothing in any"):
            score(model, texts, [UnsteeredCell(), cell], drift)


def test_scores_know_a_closed_gate_and_a_bound_from_an_idle_steer() -> None:
    model = tiny.model("llama")
    closed = Gate(Threshold(gated(model, "mean").threshold.projection, True, 1e6), "mean")
    never = replace(closed, pooling="token")
    for cell in (
        (replace(tiny.steer(model), gate=closed),),
        (replace(tiny.steer(model), gate=never),),
        (replace(tiny.steer(model), op=Operation("cap", 1e6)),),
        (tiny.steer(model, 0.0),),
    ):
        assert not score(model, TEXTS[:2], [SteeredCell(cell)], drift).any()
    opened = Gate(Threshold(closed.threshold.projection, False, 1e6), "token")
    idle = replace(tiny.steer(model, 1.0, Scope("steps", 40)), gate=opened)
    with pytest.raises(IdleError):
        score(model, TEXTS, [SteeredCell((idle,))], drift)


def test_scores_that_were_kept_know_what_was_idle(tmp_path: Path) -> None:
    model = tiny.model("llama")
    cell = SteeredCell((tiny.steer(model, 1.0, Scope("steps", 40)),))
    for _ in range(2):
        with pytest.raises(IdleError):
            score(
                model,
                TEXTS,
                [UnsteeredCell(), cell],
                drift,
                done=Journal(tmp_path / "kept"),
                name="x",
            )
