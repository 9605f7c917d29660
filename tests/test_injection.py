"""Laws of every op, scope, schedule and gate inside models of several families."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import tiny
import torch
from torch import Tensor

from steer.base.errors import HookError, SiteError, UsageError
from steer.generate.apply import Sampling, generate
from steer.hooks.clock import TokenClock
from steer.hooks.gates import prompt_values
from steer.hooks.inject import injected, write_sites
from steer.hooks.record import capture
from steer.models.model import Model
from steer.steering.operation import Coefficient, Operation
from steer.steering.projection import Gate, Projection, Threshold
from steer.steering.scope import CONSTANT, Schedule, Scope
from steer.steering.steers import Steer
from steer.vectors.sites import Site

FAMILIES = ["llama", "gpt2", "gptj", "gemma2", "qwen3", "falcon", "mpt", "opt"]
each_family = pytest.mark.parametrize("family", FAMILIES)
few_families = pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])

PROMPTS = ["w5 w9", "w12 w7 w33 w8 w41 w6 w19", "w60", "w4 w4 w50 w21"]
GREEDY = Sampling(max_tokens=6, temperature=0)
SAMPLED = Sampling(max_tokens=6, temperature=1.0, samples=2, top_k=20)
BEAMS = Sampling(max_tokens=5, temperature=0, beams=3, samples=2)

OPS = {
    "ablate": Operation("ablate"),
    "writes": Operation("ablate", writes=True),
    "clamp": Operation("clamp", 2.0),
    "cap": Operation("cap", -6.0),
    "floor": Operation("floor", 6.0),
    "rotate": Operation("rotate", 40.0),
    "keep": Operation(keep_norm=True),
    "add": Operation(),
}
each_op = pytest.mark.parametrize("name", OPS)


def acting(model: Model, name: str, coefficient: float = 1.0, **options: object) -> Steer:
    """A steer with one of `OPS`, strong enough to show."""
    steer = tiny.steer(model, coefficient * (3.0 if name in ("keep", "add") else 1.0))
    return replace(steer, op=OPS[name], **options)  # type: ignore[arg-type]


def gated(model: Model, pooling: str, seed: int = 5, above: bool = True) -> Gate:
    """A gate that about half of what it looks at opens: its threshold is the median of that."""
    read = Projection(tiny.vector(model, layers=(0,), seed=seed), 0)
    if pooling == "token":
        ids, mask = batch(model)
        seen = capture(model, ids, mask, [read.site])[read.site]
        values = (seen @ torch.from_numpy(read.weights) + read.offset)[mask.bool()]
    else:
        probe = Gate(Threshold(read, True, 0.0), pooling)  # type: ignore[arg-type]
        steer = replace(tiny.steer(model), gate=probe)
        texts = [model.encode(prompt) for prompt in PROMPTS]
        values = torch.tensor(prompt_values(model, [steer], texts)[probe])
    middle = float(values.sort().values[len(values) // 2 - 1 : len(values) // 2 + 1].mean())
    return Gate(Threshold(read, above, middle), pooling)  # type: ignore[arg-type]


def batch(model: Model, prompts: Sequence[str] = PROMPTS) -> tuple[Tensor, Tensor]:
    return model.padded([model.encode(prompt) for prompt in prompts], left=True)


def forward(
    model: Model, steers: Sequence[Steer], sites: Sequence[Site] = (), response: int = 1
) -> tuple[Tensor, dict[Site, Tensor]]:
    """Logits of one forward of `PROMPTS`, and what left the sites; padding in both.

    The last `response` columns are of the response.
    """
    ids, mask = batch(model)
    seen: dict[Site, Tensor] = {}
    keep = {
        site: lambda resid, site=site: seen.__setitem__(site, resid.detach().clone())
        for site in sites
    }
    values = prompt_values(model, steers, [model.encode(prompt) for prompt in PROMPTS])
    width = ids.shape[1]
    clock = TokenClock(width - response + 1, width - mask.sum(1), values)
    # As in generation, where padding is left out of positions.
    where = (mask.cumsum(-1) - 1).clamp(min=0)
    inputs = {} if "mpt" in model.identity.id else {"position_ids": where}
    with torch.no_grad(), injected(model, steers, clock, keep):
        logits = model.network(input_ids=ids, attention_mask=mask, **inputs).logits
    return torch.as_tensor(logits), seen


def texts(
    model: Model, steers: Sequence[Steer], sampling: Sampling, prompts: Sequence[str] = PROMPTS
) -> list[str]:
    return [
        generation.text
        for generation in generate(model, prompts, steers, sampling, allow_idle=True)
    ]


@each_family
def test_coefficient_0_is_the_baseline_bit_for_bit(family: str) -> None:
    model = tiny.model(family)
    baseline, _ = forward(model, [])
    for name in OPS if family != "opt" else set(OPS) - {"writes"}:
        off = acting(model, name, 0.0)
        assert torch.equal(forward(model, [off])[0], baseline), name
        assert not torch.allclose(forward(model, [acting(model, name)])[0], baseline), name


@few_families
@each_op
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, BEAMS])
def test_each_prompt_gets_in_a_batch_what_it_gets_alone(
    family: str, name: str, sampling: Sampling
) -> None:
    model = tiny.model(family)
    steers = [acting(model, name, scope=Scope("prompt", inverted=True, skip_special=True))]
    together = texts(model, steers, sampling)
    alone = [text for prompt in PROMPTS for text in texts(model, steers, sampling, [prompt])]
    assert together == alone
    assert together != texts(model, [], sampling)
    off = [acting(model, name, 0.0)]
    assert texts(model, off, sampling) == texts(model, [], sampling)


@each_family
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, BEAMS])
def test_all_ops_at_once_give_in_a_batch_what_they_give_alone(
    family: str, sampling: Sampling
) -> None:
    """In batches of any size, so that a prompt has much padding or none."""
    model = tiny.model(family)
    names = [name for name in OPS if name != "writes" or family != "opt"]
    steers = [
        acting(model, name, 0.7, scope=Scope("range", index % 3, 5 + index))
        for index, name in enumerate(names)
    ]
    expected = [text for prompt in PROMPTS for text in texts(model, steers, sampling, [prompt])]
    assert expected != texts(model, [], sampling)
    for size in (1, 3, 64):
        assert texts(model, steers, replace(sampling, batch_size=size)) == expected


@each_family
def test_what_an_op_promises_holds_at_its_site(family: str) -> None:
    model = tiny.model(family)
    site = Site(1)
    plain = tiny.steer(model)
    u = torch.from_numpy(Projection(plain.vector, 1).direction)
    _, before = forward(model, [], [site])
    h = before[site]
    size = h.norm(dim=-1)
    after = {
        name: forward(model, [acting(model, name)], [site])[1][site]
        for name in OPS
        if name != "writes"
    }
    assert ((after["ablate"] @ u).abs() < 1e-5 * size).all()
    assert ((after["clamp"] @ u - 2.0).abs() < 1e-5 * size).all()
    assert (after["cap"] @ u < -6.0 + 1e-5 * (size + 6)).all()
    assert (after["floor"] @ u > 6.0 - 1e-5 * (size + 6)).all()
    for name in ("rotate", "keep"):
        torch.testing.assert_close(after[name].norm(dim=-1), size, rtol=1e-5, atol=1e-5)


@each_family
@torch.no_grad()
def test_ablate_at_every_write_leaves_nothing_anywhere(family: str) -> None:
    """The residual stream is a sum of writes: with none along u, there is none in it."""
    model = tiny.model(family)
    steer = acting(model, "writes")
    u = torch.from_numpy(Projection(steer.vector, 1).direction)
    sites = [Site(layer) for layer in range(model.n_layers)] + [Site(0, "resid_pre")]
    logits, seen = forward(model, [steer], sites)
    for resid in seen.values():
        assert ((resid @ u).abs() < 1e-5 * resid.norm(dim=-1)).all()
    if "mlp_out" not in model.hooks.sites:
        return
    # Where mlp_out is not shown, resid_post stands for it, and gives the same.
    shown = model.hooks
    places = {site: place for site, place in shown.places.items() if site.name != "mlp_out"}
    hidden = replace(model, hooks=replace(shown, places=places))
    assert {site.name for site in write_sites(hidden.hooks)} == {
        "resid_pre", "attn_out", "resid_post",
    }  # fmt: skip
    torch.testing.assert_close(forward(hidden, [steer])[0], logits, rtol=1e-4, atol=1e-4)


def test_ablate_at_every_write_needs_to_see_every_write() -> None:
    model = tiny.model("granite")
    with pytest.raises(SiteError, match="no attn_out"):
        forward(model, [acting(model, "writes")])


@each_family
def test_resid_post_of_a_layer_is_resid_pre_of_the_next(family: str) -> None:
    model = tiny.model(family)
    post = tiny.vector(model, layers=(0, 1))
    pre = tiny.vector(model, layers=(1, 2), site="resid_pre")
    for name in ("ablate", "clamp", "rotate", "keep"):
        steer, other = (
            forward(model, [Steer(vector, Coefficient(2), vector.metadata.layers, op=OPS[name])])[0]
            for vector in (post, pre)
        )
        assert torch.equal(steer, other), name


SCOPES = [
    Scope("prompt"),
    Scope("response"),
    Scope("range", 1, 2),
    Scope("range", 3),
    Scope("steps", 1, 2),
    Scope("steps", 2),
    Scope("response", skip_special=True),
]


@each_family
def test_a_scope_and_its_complement_add_up_to_all(family: str) -> None:
    model = tiny.model(family)
    site = Site(1)
    _, mask = batch(model)
    real = mask.bool()
    _, before = forward(model, [], [site])
    for scope in SCOPES:
        everywhere = Scope(skip_special=scope.skip_special)
        parts = [
            forward(model, [tiny.steer(model, 1.0, part)], [site], response=4)[1][site]
            - before[site]
            for part in (scope, scope.complement, everywhere)
        ]
        torch.testing.assert_close((parts[0] + parts[1])[real], parts[2][real])
        # Each position is in one of them, and each of them has one.
        moved = [(part != 0).any(-1)[real] for part in parts]
        assert not (moved[0] & moved[1]).any()
        assert moved[0].any()
        assert moved[1].any()


def test_scopes_are_where_they_say() -> None:
    model = tiny.model("llama")
    site = Site(1)
    ids, mask = batch(model)
    _, before = forward(model, [], [site])
    pads = (1 - mask).sum(1).tolist()
    width, last = ids.shape[1], ids.shape[1] - 4
    for scope, columns in (
        (Scope("range", 1, 2), [{pad + 1, pad + 2} for pad in pads]),
        (Scope("steps", 1, 2), [{last + 1, last + 2}] * 4),
        (Scope("response"), [set(range(last, width))] * 4),
        (Scope("prompt"), [set(range(last))] * 4),
        # The first token of each text is the only special one, but for padding.
        (Scope("range", 0, 1, skip_special=True), [{pad + 1} for pad in pads]),
    ):
        seen = forward(model, [tiny.steer(model, 1.0, scope)], [site], response=4)[1]
        moved = (seen[site] != before[site]).any(-1)
        for row, wanted in enumerate(columns):
            moved_columns = {c for c in range(pads[row], width) if moved[row, c]}
            assert moved_columns == {c for c in wanted if pads[row] <= c < width}, scope


def test_whole_texts_padded_on_the_right_have_starts_of_their_own() -> None:
    model = tiny.model("llama")
    site = Site(1)
    ids, mask = model.padded([model.encode(prompt) for prompt in PROMPTS], left=False)
    starts = [2, 5, 1, 3]
    (before,) = capture(model, ids, mask, [site]).values()
    for steer in (
        tiny.steer(model, 1.0, Scope("response")),
        tiny.steer(model, 1.0, Scope("prompt")),
        tiny.steer(model, 1.0, Scope("steps", 1, 1)),
        tiny.steer(model, 1.0, Scope("range", 1, 2)),
        replace(tiny.steer(model), schedule=Schedule("decay", 2)),
    ):
        clock = TokenClock(0, torch.zeros(4, dtype=torch.int64), starts=starts)
        clock.counted = mask.bool()
        seen: list[Tensor] = []
        with torch.no_grad(), injected(model, [steer], clock, {site: seen.append}):
            model.network(input_ids=ids, attention_mask=mask)
        for row, start in enumerate(starts):
            # Alone, and with the response where it is.
            alone: list[Tensor] = []
            length = int(mask[row].sum())
            token_clock = TokenClock(start, torch.zeros(1, dtype=torch.int64))
            with torch.no_grad(), injected(model, [steer], token_clock, {site: alone.append}):
                model.network(input_ids=ids[row : row + 1, :length])
            change = (seen[0] - before)[row, :length]
            expected = alone[0][0] - before[row, :length]
            torch.testing.assert_close(change, expected, rtol=1e-4, atol=1e-4)


SCHEDULES = {
    "ramp": (Schedule("ramp", 4), [0, 0.25, 0.5, 0.75, 1, 1]),
    "decay": (Schedule("decay", 2), [1, 0.5**0.5, 0.5, 0.5**1.5, 0.25, 0.5**2.5]),
    "first": (Schedule("first", 2), [1, 1, 0, 0, 0, 0]),
    "after": (Schedule("after", 2), [0, 0, 1, 1, 1, 1]),
    "on": (Schedule("on", spans=((1, 1), (3, None))), [0, 1, 0, 1, 1, 1]),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_what_they_say(name: str) -> None:
    model = tiny.model("llama")
    site = Site(1)
    schedule, factors = SCHEDULES[name]
    _, mask = batch(model)
    _, before = forward(model, [], [site])
    steer = replace(tiny.steer(model), schedule=schedule)
    _, after = forward(model, [steer], [site], response=6)
    moved = ((after[site] - before[site]).norm(dim=-1) / steer.vector.metadata.at(1).norm)[1]
    width = mask.shape[1]
    expected = torch.tensor([factors[0]] * (width - 6) + factors, dtype=torch.float32)
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-4)


@each_family
def test_cached_generation_equals_uncached(family: str) -> None:
    """Each token again from the whole text so far, with all that depends on positions."""
    model = tiny.model(family)
    steers = [
        acting(model, "rotate", schedule=Schedule("decay", 3), scope=Scope("range", 2, 6)),
        acting(model, "add", schedule=Schedule("on", spans=((1, 2),)), scope=Scope("response")),
        acting(model, "clamp", scope=Scope("steps", 2, 3, inverted=True, skip_special=True)),
        acting(model, "ablate", gate=gated(model, "token")),
        acting(model, "add", gate=gated(model, "mean", seed=6)),
    ]
    for prompt in PROMPTS:
        cached = texts(model, steers, GREEDY, [prompt])[0]
        ids = model.encode(prompt)
        start = len(ids)
        values = prompt_values(model, steers, [ids])
        for _ in range(GREEDY.max_tokens):
            clock = TokenClock(start, torch.zeros(1, dtype=torch.int64), values)
            with torch.no_grad(), injected(model, steers, clock):
                scores = model.network(input_ids=torch.tensor([ids]), use_cache=False).logits
            ids.append(int(scores[0, -1].argmax()))
        assert model.decode(ids[start:]) == cached


@each_family
def test_a_model_that_keeps_no_cache_writes_the_same(family: str) -> None:
    cached, uncached = (tiny.wrapped(tiny.build(family), f"tiny-{family}") for _ in range(2))
    uncached.network.generation_config.use_cache = False
    steers = [
        acting(cached, "add", scope=Scope("response", skip_special=True)),
        acting(cached, "ablate", schedule=Schedule("ramp", 3), scope=Scope("range", 1)),
        acting(cached, "rotate", gate=gated(cached, "token")),
        acting(cached, "add", gate=gated(cached, "last", seed=6)),
    ]
    for sampling in (GREEDY, SAMPLED):
        assert texts(uncached, steers, sampling) == texts(cached, steers, sampling)
    for steer in (steers[0], steers[3]):  # no gate at each token goes with beams
        assert texts(uncached, [steer], BEAMS) == texts(cached, [steer], BEAMS)


@pytest.mark.parametrize("name", ["cache_params", "state"])
def test_a_state_that_does_not_count_tokens_is_refused_where_they_are_to_be_known(
    name: str,
) -> None:
    """A scope would take each new token for the first, and steer nothing, or too much."""
    model = tiny.wrapped(tiny.build("llama"), "state")
    own = model.network.forward
    model.network.forward = lambda **inputs: own(input_ids=inputs["input_ids"], use_cache=False)
    ids = torch.tensor([[1, 5, 6]])
    clock = TokenClock(3, torch.zeros(1, dtype=torch.int64))
    scoped = tiny.steer(model, 2.0, Scope("response"))
    with (
        pytest.raises(HookError, match="does not give the position of the next token"),
        injected(model, [scoped], clock),
    ):
        model.network(input_ids=ids, **{name: object()})
    with injected(model, [tiny.steer(model, 2.0)], clock):  # everywhere needs no clock
        model.network(input_ids=ids, **{name: object()})


def test_adds_come_first_and_others_in_the_order_given() -> None:
    model = tiny.model("llama")
    add, keep = (
        acting(model, "add"),
        replace(acting(model, "keep"), vector=tiny.vector(model, seed=1)),
    )
    ablate = acting(model, "ablate")
    other = tiny.vector(model, seed=2)
    clamp = Steer(other, Coefficient(1), (1,), op=Operation("clamp", 3.0))
    orders = [[add, keep, ablate, clamp], [ablate, keep, clamp, add], [ablate, clamp, add, keep]]
    logits = [forward(model, order)[0] for order in orders]
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])
    _, seen = forward(model, [clamp, ablate, add], [Site(1)])
    u = torch.from_numpy(Projection(ablate.vector, 1).direction)
    assert ((seen[Site(1)] @ u).abs() < 1e-5 * seen[Site(1)].norm(dim=-1)).all()
    _, seen = forward(model, [ablate, clamp, add], [Site(1)])
    v = torch.from_numpy(Projection(other, 1).direction)
    assert ((seen[Site(1)] @ v - 3).abs() < 1e-5 * seen[Site(1)].norm(dim=-1)).all()


@each_family
def test_adds_have_no_order_and_cancel_in_every_scope(family: str) -> None:
    model = tiny.model(family)
    steers = [
        tiny.steer(model, 1.0 + seed, scope, seed=seed)
        for seed, scope in enumerate([Scope(), Scope("response"), Scope("range", 1)])
    ]
    steers.append(replace(tiny.steer(model, 2.0, seed=9), schedule=Schedule("ramp", 3)))
    assert torch.equal(forward(model, steers)[0], forward(model, steers[::-1])[0])
    both = [
        replace(steer, coefficient=Coefficient(sign * 2.0)) for steer in steers for sign in (1, -1)
    ]
    assert torch.equal(forward(model, both)[0], forward(model, [])[0])


def opens(model: Model, steer: Steer) -> list[bool]:
    """Which of `PROMPTS` open its gate."""
    assert steer.gate is not None
    values = prompt_values(model, [steer], [model.encode(prompt) for prompt in PROMPTS])
    return [steer.gate.threshold.passes(value) for value in values[steer.gate]]


@each_family
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_gate_steers_the_prompts_that_open_it_and_no_other(family: str, pooling: str) -> None:
    model = tiny.model(family)
    free = acting(model, "add")
    steer = replace(free, gate=gated(model, pooling))
    passes = opens(model, steer)
    assert sum(passes) == 2
    baseline, _ = forward(model, [])
    logits, _ = forward(model, [steer])
    everywhere, _ = forward(model, [free])
    for row, is_open in enumerate(passes):
        assert torch.equal(logits[row], (everywhere if is_open else baseline)[row])
    for sampling in (GREEDY, SAMPLED, BEAMS):
        steered_texts, plain, free_texts = (
            texts(model, steers, sampling) for steers in ([steer], [], [free])
        )
        for index, text in enumerate(steered_texts):
            is_open = passes[index // sampling.samples]
            assert text == (free_texts if is_open else plain)[index]
        alone = [text for prompt in PROMPTS for text in texts(model, [steer], sampling, [prompt])]
        assert steered_texts == alone
    below = replace(steer, gate=gated(model, pooling, above=False))
    assert opens(model, below) == [not pass_ for pass_ in passes]


@each_family
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_gates_read_what_nothing_has_steered_in_one_pass_where_that_is_so(
    family: str, pooling: str
) -> None:
    """As the prompts pass, if no edit comes before; else in a pass of its own."""
    model = tiny.model(family)
    gate = gated(model, pooling)
    ids = [model.encode(prompt) for prompt in PROMPTS]
    behind = Steer(tiny.vector(model), Coefficient(3.0), (1,), gate=gate)
    first = tiny.steer(model, 3.0, layers=(0,))
    before = tiny.steer_at(model, Site(0, "resid_pre"), torch.randn(model.identity.d_model))
    expected = prompt_values(model, [behind], ids)[gate]
    for others, n_passes in (([], 1), ([first], 1), ([before], 2)):
        passes: list[int] = []
        embed = model.network.get_input_embeddings()  # not every model calls its body
        handle = embed.register_forward_pre_hook(lambda *_, n=passes: n.append(1))
        once = Sampling(max_tokens=1, temperature=0, samples=2)
        generations = list(generate(model, PROMPTS, [*others, behind], once))
        handle.remove()
        assert len(passes) == n_passes
        for sampling in (once, BEAMS):
            generations = list(generate(model, PROMPTS, [*others, behind], sampling))
            read = [generation.gates[0].value for generation in generations[:: sampling.samples]]
            assert read == pytest.approx(expected, rel=1e-4, abs=1e-4)


@each_family
def test_a_gate_of_tokens_steers_those_that_open_it(family: str) -> None:
    model = tiny.model(family)
    gate = gated(model, "token")
    site = Site(1)
    ids, mask = batch(model)
    read = gate.threshold.projection
    seen = capture(model, ids, mask, [read.site])[read.site]
    _, before = forward(model, [], [site, read.site])
    values = before[read.site] @ torch.from_numpy(read.weights) + read.offset
    _, after = forward(model, [acting(model, "add", gate=gate)], [site])
    moved = (after[site] != before[site]).any(-1)
    clear = (values - gate.threshold.value).abs() > 1e-4
    real = mask.bool() & clear
    assert torch.equal(moved[real], (values > gate.threshold.value)[real])
    assert moved[real].any()
    assert not moved[real].all()
    assert seen.shape == before[site].shape
    steers = [acting(model, "add", gate=gate)]
    for sampling in (GREEDY, SAMPLED):
        alone = [text for prompt in PROMPTS for text in texts(model, steers, sampling, [prompt])]
        assert texts(model, steers, sampling) == alone
    with pytest.raises(UsageError, match="excludes gates that read each token"):
        list(generate(model, PROMPTS, steers, BEAMS))


def test_what_gates_did_is_told() -> None:
    model = tiny.model("llama")
    steer = replace(acting(model, "add"), gate=gated(model, "mean"))
    for generation in generate(model, PROMPTS, [steer], SAMPLED):
        (reading,) = generation.gates
        assert reading.value is not None
        assert steer.gate is not None
        assert reading.share == steer.gate.threshold.passes(reading.value)
    token = replace(acting(model, "add"), gate=gated(model, "token"))
    for generation in generate(model, PROMPTS, [token], GREEDY):
        (reading,) = generation.gates
        assert reading.value is None
        assert reading.share * generation.n_tokens == pytest.approx(
            round(reading.share * generation.n_tokens)
        )


@torch.no_grad()
@few_families
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@each_op
def test_half_precision_keeps_its_type_and_the_promise(
    family: str, name: str, dtype: torch.dtype
) -> None:
    model = tiny.wrapped(tiny.build(family).to(dtype), "half")
    site = Site(1)
    baseline, before = forward(model, [], [site])
    assert torch.equal(forward(model, [acting(model, name, 0.0)])[0], baseline)
    logits, after = forward(model, [acting(model, name)], [site])
    assert logits.dtype == after[site].dtype == dtype
    assert not torch.allclose(logits, baseline)
    u = torch.from_numpy(Projection(acting(model, name).vector, 1).direction)
    size = after[site].float().norm(dim=-1)
    precision = 4 * torch.finfo(dtype).eps
    if name in ("ablate", "writes"):
        # At every write each rounds: the sum of many is a little off.
        slack = 8 if name == "writes" else 1
        assert ((after[site].float() @ u).abs() < slack * precision * size).all()
    if name in ("keep", "rotate"):
        wanted = before[site].float().norm(dim=-1)
        assert ((size - wanted).abs() < precision * wanted).all()


def test_small_adds_are_rounded_together_not_one_by_one() -> None:
    model = tiny.wrapped(tiny.build("llama").to(torch.bfloat16), "half")
    _, before = forward(model, [], [Site(1)])
    h = before[Site(1)]
    vector = tiny.vector(model)
    small = Steer(vector, Coefficient(0.01), (1,))
    _, seen = forward(model, [small] * 9, [Site(1)])
    delta = torch.from_numpy(0.01 * vector.direction(1))
    torch.testing.assert_close(seen[Site(1)].float(), h.float() + 9 * delta, rtol=2**-8, atol=1e-6)
    one_by_one = h
    for _ in range(9):
        one_by_one = (one_by_one.float() + delta).to(torch.bfloat16)
    assert not torch.allclose(one_by_one.float(), h.float() + 9 * delta, rtol=2**-8, atol=1e-6)


@each_family
def test_no_hook_stays(family: str) -> None:
    model = tiny.model(family)
    steers = [
        acting(model, "ablate", gate=gated(model, "token")),
        acting(model, "add", gate=gated(model, "last")),
        acting(model, "clamp"),
    ]
    watched = [Projection(tiny.vector(model, seed=3), 1)]
    list(generate(model, PROMPTS, steers, GREEDY, watched=watched))
    assert tiny.n_hooks(model) == 0
    for error in (KeyboardInterrupt, RuntimeError):

        def fail(_text: str, error: type[BaseException] = error) -> None:
            raise error

        with pytest.raises(error):
            list(generate(model, PROMPTS[:1], steers, GREEDY, watched=watched, on_text=fail))
        assert tiny.n_hooks(model) == 0
    with pytest.raises(SiteError):
        late_site = Site(2, "attn_out")
        late = Steer(tiny.vector(model, layers=(2,), site="attn_out"), Coefficient(1), (2,))
        places = {site: place for site, place in model.hooks.places.items() if site != late_site}
        missing = replace(model, hooks=replace(model.hooks, places=places))
        list(generate(missing, PROMPTS, [*steers, late], GREEDY))
    assert tiny.n_hooks(model) == 0


def test_constant_schedules_and_full_scopes_cost_no_mask() -> None:
    """What is the same everywhere is a number, not a tensor that each token makes anew."""
    model = tiny.model("llama")
    clock = TokenClock(4, torch.tensor([0, 2, 1]))
    resid = torch.zeros(3, 1, 8)
    clock.start = 9
    for scope, expected in (
        (Scope(), 1.0),
        (Scope("response"), 1.0),
        (Scope("prompt"), 0.0),
        (Scope("range", 3), 1.0),
        (Scope("range", 0, 3), 0.0),
        (Scope("steps", 40), 0.0),
        (Scope("prompt", inverted=True), 1.0),
    ):
        steer = tiny.steer(model, 1.0, scope)
        assert clock.weigher(steer.timing)(resid) == expected
        assert isinstance(clock.weigher(steer.timing)(resid), float)
    decaying = replace(tiny.steer(model), schedule=Schedule("decay", 3))
    assert clock.weigher(decaying.timing)(resid) == pytest.approx(2 ** (-6 / 3))
    assert replace(decaying, schedule=CONSTANT).timing != decaying.timing
