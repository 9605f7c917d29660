"""Laws of steered generation, on tiny random models of several architectures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import tiny
import torch

from steer.base.errors import HookError, SteerError
from steer.base.text import cut
from steer.generate import apply, decoding
from steer.generate.apply import Generation, Sampling, generate
from steer.generate.decoding import drawn
from steer.hooks.clock import TokenClock
from steer.hooks.hooks import placed
from steer.hooks.inject import injected
from steer.hooks.record import capture
from steer.models.model import Model
from steer.steering.operation import Coefficient
from steer.steering.scope import Scope
from steer.steering.steers import Steer
from steer.vectors.sites import Site

FAMILIES = ["llama", "gpt2", "gptj", "gemma2", "qwen3", "falcon", "mpt", "bloom", "opt"]
each_family = pytest.mark.parametrize("family", FAMILIES)

PROMPTS = ["w5 w9", "w12 w7 w33 w8 w41 w6 w19", "w60", "w4 w4 w50 w21"]
GREEDY = Sampling(max_tokens=8, temperature=0)
SAMPLED = Sampling(max_tokens=8, temperature=1.0, samples=2, top_k=20, top_p=0.9)


def texts(generations: Iterable[Generation]) -> list[str]:
    return [generation.text for generation in generations]


def run(
    model: Model,
    steers: Sequence[Steer],
    sampling: Sampling = GREEDY,
    prompts: Sequence[str] = PROMPTS,
) -> list[str]:
    return texts(generate(model, prompts, steers, sampling, allow_idle=True))


@each_family
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
def test_coefficient_0_is_the_baseline_and_1_is_not(family: str, sampling: Sampling) -> None:
    model = tiny.model(family)
    baseline = run(model, [], sampling)
    assert run(model, [tiny.steer(model, 0.0)], sampling) == baseline
    assert run(model, [tiny.steer(model, 3.0)], sampling) != baseline


@each_family
@pytest.mark.parametrize(
    "scope", [Scope(), Scope("response"), Scope("prompt"), Scope("range", 1, 2)]
)
def test_each_prompt_gets_in_a_batch_what_it_gets_alone(family: str, scope: Scope) -> None:
    model = tiny.model(family)
    steers = [tiny.steer(model, 1.5, scope)]
    for sampling in (GREEDY, SAMPLED):
        together = run(model, steers, sampling)
        alone = [text for prompt in PROMPTS for text in run(model, steers, sampling, [prompt])]
        assert together == alone


@each_family
def test_a_vector_and_its_negative_cancel(family: str) -> None:
    model = tiny.model(family)
    assert run(model, [tiny.steer(model, 2.0), tiny.steer(model, -2.0)]) == run(model, [])


@each_family
def test_the_order_of_steers_does_not_matter(family: str) -> None:
    model = tiny.model(family)
    steers = [tiny.steer(model, 1.0 + seed, seed=seed) for seed in range(3)]
    assert run(model, steers) == run(model, steers[::-1])


@each_family
def test_resid_post_of_a_layer_is_resid_pre_of_the_next(family: str) -> None:
    model = tiny.model(family)
    post = tiny.vector(model, layers=(0, 1))
    pre = tiny.vector(model, layers=(1, 2), site="resid_pre")
    steer, other = (
        run(model, [Steer(vector, Coefficient(2), vector.metadata.layers)])
        for vector in (post, pre)
    )
    assert steer == other != run(model, [])


@each_family
@torch.no_grad()
def test_a_scope_and_its_complement_add_up_to_all(family: str) -> None:
    model = tiny.model(family)
    ids, mask = model.padded([model.encode(prompt) for prompt in PROMPTS], left=True)

    def logits(steers: Sequence[Steer]) -> torch.Tensor:
        clock = TokenClock(4, ids.shape[1] - mask.sum(1))
        with injected(model, steers, clock):
            return torch.as_tensor(model.network(input_ids=ids, attention_mask=mask).logits)

    everywhere = logits([tiny.steer(model)])
    real = mask.bool()
    for parts in (
        [Scope("prompt"), Scope("response")],
        [Scope("range", 0, 2), Scope("range", 3)],
    ):
        split = logits([tiny.steer(model, 1.0, scope) for scope in parts])
        torch.testing.assert_close(split[real], everywhere[real], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(
            logits([tiny.steer(model, 1.0, parts[0])])[real], everywhere[real]
        )


@each_family
def test_cached_generation_equals_uncached(family: str) -> None:
    """Each token again from the whole text so far, with steers that depend on positions."""
    model = tiny.model(family)
    steers = [
        tiny.steer(model, 1.5, Scope("response")),
        tiny.steer(model, 1.5, Scope("range", 2, 6), seed=1),
    ]
    cached = next(generate(model, PROMPTS[:1], steers, GREEDY))
    ids = model.encode(PROMPTS[0])
    start = len(ids)
    for _ in range(GREEDY.max_tokens):
        clock = TokenClock(start, torch.zeros(1, dtype=torch.int64))
        with torch.no_grad(), injected(model, steers, clock):
            scores = model.network(input_ids=torch.tensor([ids]), use_cache=False).logits
        ids.append(int(scores[0, -1].argmax()))
    assert model.decode(ids[start:]) == cached.text


few_families = pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])


@few_families
def test_low_rank_coefficient_0_is_the_baseline_and_1_is_not(family: str) -> None:
    model = tiny.model(family)
    for sampling in (GREEDY, SAMPLED):
        baseline = run(model, [], sampling)
        assert run(model, [tiny.low_rank_steer(model, 0.0)], sampling) == baseline
        assert run(model, [tiny.low_rank_steer(model, 2.0)], sampling) != baseline


@few_families
def test_low_rank_edits_cancel_and_have_no_order(family: str) -> None:
    model = tiny.model(family)
    steer, other = (tiny.low_rank_steer(model, 1.5, seed=seed) for seed in (0, 1))
    assert run(model, [steer, other]) == run(model, [other, steer]) != run(model, [steer])
    negative = Steer(steer.vector, Coefficient(-1.5), steer.layers)
    assert run(model, [steer, negative]) == run(model, [])


@few_families
@pytest.mark.parametrize("scope", [Scope(), Scope("response"), Scope("range", 1, 2)])
def test_low_rank_edits_do_in_a_batch_what_they_do_alone(family: str, scope: Scope) -> None:
    model = tiny.model(family)
    steers = [tiny.low_rank_steer(model, 1.5, scope), tiny.steer(model, 1.0)]
    alone = [text for prompt in PROMPTS for text in run(model, steers, prompts=[prompt])]
    assert run(model, steers) == alone


def test_several_low_rank_edits_act_on_what_came_in_and_add_up() -> None:
    model = tiny.model("llama")
    steers = [
        tiny.low_rank_steer(model, 1.5, seed=0),
        tiny.low_rank_steer(model, -0.5, Scope("range", 0), seed=1),
        tiny.steer(model, 2.0, seed=2),
    ]
    ids = torch.tensor([model.encode("w5 w9 w12")])
    (before,) = capture(model, ids, torch.ones_like(ids), [Site(1)]).values()
    expected = before.double()
    for steer in steers:
        factor = steer.coefficient.value
        expected = expected + factor * torch.from_numpy(steer.vector.direction(1).copy()).double()
        if factors := steer.vector.low_rank(1):
            down, up = (torch.from_numpy(part.copy()).double() for part in factors)
            expected = expected + factor * (before.double() @ down.T) @ up.T
    clock = TokenClock(ids.shape[1], torch.zeros(1, dtype=torch.int64))
    seen: list[torch.Tensor] = []
    with torch.no_grad(), injected(model, steers, clock), placed(model, {Site(1): seen.append}):
        model.network(input_ids=ids)
    torch.testing.assert_close(seen[0].double(), expected, rtol=1e-5, atol=1e-5)


@each_family
def test_no_hook_stays(family: str) -> None:
    model = tiny.model(family)

    assert tiny.n_hooks(model) == 0
    run(model, [tiny.steer(model)])
    assert tiny.n_hooks(model) == 0
    for error in (KeyboardInterrupt, RuntimeError):

        def fail(_text: str, error: type[BaseException] = error) -> None:
            raise error

        with pytest.raises(error):
            list(generate(model, PROMPTS[:1], [tiny.steer(model)], GREEDY, on_text=fail))
        assert tiny.n_hooks(model) == 0


def test_a_steer_that_is_never_applied_is_an_error() -> None:
    model = tiny.model("llama")
    clock = TokenClock(1, torch.zeros(1, dtype=torch.int64))
    with (
        pytest.raises(HookError, match="resid_post 1"),
        injected(model, [tiny.steer(model)], clock),
    ):
        pass


def test_activations_of_another_shape_are_an_error() -> None:
    model = tiny.model("llama")
    block = model.network.get_submodule("model.layers.0")
    wrong = block.register_forward_hook(lambda _m, _a, output: output.flatten(0, 1))
    try:
        with (
            pytest.raises(HookError, match="rows, positions"),
            placed(model, {Site(0): lambda _: None}),
        ):
            model.network(torch.tensor([[3, 4]]))
    finally:
        wrong.remove()


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("site", [Site(1), Site(1, "attn_out")])
def test_what_others_have_put_on_a_module_stays_and_comes_first(family: str, site: Site) -> None:
    """Libraries gather or move what a module gives, by hooks or by a `forward` of its own."""
    model = tiny.wrapped(tiny.build(family), "others")
    module = model.network.get_submodule(model.hooks.place(site).module)
    seen: list[torch.Tensor] = []

    def look() -> None:
        with placed(model, {site: lambda resid: seen.append(resid.clone())}):
            model.network(torch.tensor([[3, 4, 5]]))

    def doubled(_module: object, _args: object, output: Any) -> object:
        if isinstance(output, torch.Tensor):
            return 2 * output
        return 2 * output[0], *output[1:]

    look()
    handle = module.register_forward_hook(doubled)
    look()
    assert tiny.n_hooks(model) == 1
    handle.remove()
    inner = module.forward
    own = module.forward = lambda *args, **keywords: doubled(None, (), inner(*args, **keywords))
    look()
    assert module.forward is own
    assert torch.equal(seen[1], 2 * seen[0])
    assert torch.equal(seen[2], seen[1])


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_steers_and_keeps_its_type(dtype: torch.dtype) -> None:
    model = tiny.wrapped(tiny.build("llama").to(dtype), "half")
    assert run(model, [tiny.steer(model, 0.0)]) == run(model, [])
    assert run(model, [tiny.steer(model, 3.0)]) != run(model, [])


@pytest.mark.parametrize(
    "sampling", [GREEDY, SAMPLED, Sampling(max_tokens=4, temperature=0, beams=2)]
)
def test_what_is_too_large_for_the_precision_is_an_error_and_no_text(sampling: Sampling) -> None:
    model = tiny.wrapped(tiny.build("llama").to(torch.float16), "half")
    assert run(model, [tiny.steer(model, 10.0)], sampling)
    # Each is a number in float16, and their sum is not.
    large = [tiny.steer(model, 25_000.0, layers=(layer,)) for layer in (1, 2)]
    with pytest.raises(SteerError, match="too large"):
        run(model, large, sampling)


def test_residual_share_has_the_length_it_says() -> None:
    model = tiny.model("llama")
    vector = tiny.vector(model)
    steer = Steer(vector, Coefficient(0.15, "residual"), (1,))
    (delta,) = [steer.delta(layer) for layer in steer.layers]
    expected = 0.15 * vector.metadata.at(1).resid_norm
    assert float((delta.astype(float) ** 2).sum() ** 0.5) == pytest.approx(expected, rel=1e-5)


def test_samples_differ_and_seeds_decide() -> None:
    model = tiny.model("llama")
    sampling = Sampling(max_tokens=12, temperature=1.5, samples=4)
    first = run(model, [], sampling)
    assert len(set(first)) > 4
    assert run(model, [], sampling) == first
    other = Sampling(max_tokens=12, temperature=1.5, samples=4, seed=1)
    assert run(model, [], other) != first


def test_sampling_follows_the_probabilities() -> None:
    model = tiny.model("llama")
    sampling = Sampling(max_tokens=1, temperature=1.0, samples=4_000, batch_size=500)
    drawn = run(model, [], sampling, ["w5 w9"])
    with torch.no_grad():
        scores = model.network(torch.tensor([model.encode("w5 w9")])).logits[0, -1]
    for token, probability in enumerate(scores.softmax(-1).tolist()):
        if token < 3:
            continue  # special tokens are not shown
        share = drawn.count(f"w{token}") / len(drawn)
        assert abs(share - probability) < 5 * (probability / len(drawn)) ** 0.5 + 1e-3


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, Sampling(8, temperature=0, beams=3)])
def test_texts_are_drawn_from_the_model_whatever_settings_come_with_it(sampling: Sampling) -> None:
    plain, penalised = (tiny.wrapped(tiny.build("llama"), "tiny") for _ in range(2))
    own = penalised.network.generation_config
    own.repetition_penalty, own.no_repeat_ngram_size, own.suppress_tokens = 3.0, 2, [5, 9, 33]
    steers = [tiny.steer(plain, 3.0)]
    assert run(penalised, steers, sampling) == run(plain, steers, sampling)
    assert penalised.network.generation_config is own


def test_a_text_ends_where_the_tokenizer_says_if_nobody_else_does() -> None:
    model = tiny.wrapped(tiny.build("llama"), "tiny")
    end = run(model, [])[0].split()[3]
    model = tiny.wrapped(tiny.build("llama"), "tiny")
    model.tokenizer.eos_token = end
    pieces: list[str] = []
    [generation] = generate(model, PROMPTS[:1], [], GREEDY, on_text=pieces.append)
    assert generation.finish == "end"
    assert "".join(pieces) == generation.text


@pytest.mark.parametrize(("pause", "fewest", "most"), [(0.0, 4, 99), (60.0, 1, 2)])
def test_streamed_text_is_the_text(
    monkeypatch: pytest.MonkeyPatch, pause: float, fewest: int, most: int
) -> None:
    monkeypatch.setattr(decoding, "PAUSE", pause)
    model = tiny.model("llama")
    pieces: list[str] = []
    (done,) = generate(model, PROMPTS[:1], [], GREEDY, on_text=pieces.append)
    assert "".join(pieces) == done.text
    assert fewest <= len([piece for piece in pieces if piece]) <= most


def test_a_stop_string_ends_the_text_before_it() -> None:
    model = tiny.model("llama")
    continuation = run(model, [])[0]
    word = continuation.split()[3]
    stopped = list(
        generate(model, PROMPTS, [], Sampling(max_tokens=8, temperature=0, stop=(word,)))
    )
    assert stopped[0].text == cut(continuation, [word])
    assert stopped[0].finish == "stop"
    assert stopped[0].n_tokens < 8


def test_a_prompt_without_room_is_an_error_that_counts() -> None:
    model = tiny.model("llama")
    room = model.context
    assert room is not None
    with pytest.raises(SteerError, match="prompt 2 has") as caught:
        list(generate(model, ["w3", " ".join(["w4"] * room)], [], GREEDY))
    assert caught.value.hint == "shorten the prompt"


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError(), RuntimeError("you tried: can't allocate memory: 9 bytes")]
)
def test_a_batch_that_does_not_fit_is_written_in_parts(
    monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    model = tiny.model("llama")
    begun = [((5, 9 + n), n) for n in range(7)]
    sampling = Sampling(max_tokens=4, temperature=1.0, batch_size=5)
    expected = apply.continue_ids(model, begun, [tiny.steer(model)], sampling)
    sizes: list[int] = []

    class Small(apply.Batch):
        def run(self) -> list[list[int]]:
            sizes.append(len(self.rows))
            if len(self.rows) > 2:
                raise error
            return super().run()

    monkeypatch.setattr(apply, "Batch", Small)
    counts: list[int] = []
    continuations = apply.continue_ids(model, begun, [tiny.steer(model)], sampling, counts.append)
    assert continuations == expected
    assert sizes == [5, 2, 2, 1, 2], "what did not fit once is not tried again"
    assert sum(counts) == len(begun)


@pytest.mark.parametrize("n_tokens", [7, 256, 3000])
def test_tokens_are_drawn_as_often_as_they_are_likely(n_tokens: int) -> None:
    """Also across the blocks in which probabilities are summed."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(1, n_tokens, generator=generator)
    logits[:, ::3] = -torch.inf
    uniform = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    uniform = torch.cat([torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64), uniform])
    tokens = drawn(logits.expand(len(uniform), -1), uniform)
    shares = torch.bincount(tokens, minlength=n_tokens) / len(uniform)
    assert (shares - logits[0].softmax(-1)).abs().max() < 2e-4
    assert not shares[::3].any()
    assert torch.equal(drawn(logits, uniform[700:701]), tokens[700:701])
    assert int(drawn(torch.full((1, n_tokens), torch.nan), uniform[:1])) < n_tokens
