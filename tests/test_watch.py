"""Watching projections and guarding them, while text is generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import tiny
import torch

from steer.base.errors import GuardError, UsageError
from steer.generate.apply import Generation, Sampling, generate
from steer.generate.batch import Batch
from steer.hooks.clock import TokenClock
from steer.hooks.inject import injected
from steer.hooks.watch import Watch
from steer.models.model import Model
from steer.steering.operation import Operation
from steer.steering.projection import Guard, OnTrip, Projection, Threshold
from steer.steering.scope import Scope
from steer.steering.steers import Steer

PROMPTS = ["w5 w9", "w12 w7 w33 w8 w41 w6 w19", "w60"]
GREEDY = Sampling(max_tokens=8, temperature=0)
SAMPLED = Sampling(max_tokens=8, temperature=1.2, samples=3, top_k=30)
families = pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "qwen3", "falcon", "opt"])


def projections(model: Model) -> list[Projection]:
    """At a layer that is steered, at one behind, and at another site."""
    return [
        Projection(tiny.vector(model, layers=(1,), seed=3), 1),
        Projection(tiny.vector(model, layers=(2,), seed=4), 2),
        Projection(tiny.vector(model, layers=(1,), seed=5, site="attn_out"), 1),
    ]


def steers(model: Model) -> list[Steer]:
    return [replace(tiny.steer(model, 2.0, Scope("response")), op=Operation("rotate", 30.0))]


def run(model: Model, sampling: Sampling = GREEDY, **options: object) -> list[Generation]:
    return list(generate(model, PROMPTS, steers(model), sampling, **options))  # type: ignore[arg-type]


def reread(model: Model, generation: Generation, read: Projection) -> list[float]:
    """The same projections from one forward over the whole text, without a cache."""
    ids = model.encode(generation.prompt)
    start = len(ids)
    ids = ids + [int(token.strip()[1:]) if "w" in token else 0 for token in generation.tokens]
    seen: list[torch.Tensor] = []
    clock = TokenClock(start, torch.zeros(1, dtype=torch.int64))
    with torch.no_grad(), injected(model, steers(model), clock, {read.site: seen.append}):
        model.network(input_ids=torch.tensor([ids]), use_cache=False)
    values = seen[0][0].float() @ torch.from_numpy(read.weights) + read.offset
    return [float(value) for value in values[start - 1 : len(ids) - 1]]


@families
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
def test_watched_values_are_those_at_the_positions_that_wrote_each_token(
    family: str, sampling: Sampling
) -> None:
    model = tiny.model(family)
    watched = projections(model)
    plain = run(model, sampling)
    generations = run(model, sampling, watched=watched)
    assert [generation.text for generation in generations] == [
        generation.text for generation in plain
    ]
    for generation in generations:
        assert list(generation.watched) == [
            f"calm@{projection.layer}" for projection in watched[:2]
        ]
        assert len(generation.tokens) == generation.n_tokens
        for values in generation.watched.values():
            assert len(values) == generation.n_tokens
    for generation in generations[:2]:
        if any(token in ("<s>", "</s>", "<pad>") for token in generation.tokens):
            continue
        assert generation.watched["calm@2"] == pytest.approx(
            reread(model, generation, watched[1]), abs=1e-3
        )


def at_site(read: Projection, threshold: float, on_trip: OnTrip = "stop") -> Guard:
    return Guard(Threshold(read, True, threshold), on_trip)


def middle(values: Sequence[float]) -> float:
    """Between the two highest values, so that one passes it, and well apart from both."""
    below, above = sorted(values)[-2:]
    return (below + above) / 2


@families
def test_a_guard_stops_its_row_before_the_token_that_trips_it(family: str) -> None:
    model = tiny.model(family)
    read = projections(model)[1]
    free = run(model, SAMPLED, watched=[read])
    threshold = middle([value for generation in free for value in generation.watched["calm@2"]])
    guarded = run(model, SAMPLED, watched=[read], guards=[at_site(read, threshold)])
    for before, after in zip(free, guarded, strict=True):
        values = before.watched["calm@2"]
        first = next((k for k, value in enumerate(values) if value > threshold), None)
        if first is None:
            assert (after.text, after.finish, after.trips) == (before.text, before.finish, [])
            continue
        (trip,) = after.trips
        assert (trip.token, after.n_tokens, after.finish) == (first, first, "guard")
        assert trip.value == pytest.approx(values[first], abs=1e-4)
        assert trip.text == before.tokens[first]
        assert before.text.startswith(after.text)
    assert sum(bool(generation.trips) for generation in guarded) == 1


@pytest.mark.parametrize("on_trip", ["stop", "ablate"])
def test_a_guard_of_what_follows_the_prompt_looks_at_one_token(on_trip: OnTrip) -> None:
    model = tiny.model("llama")
    read = projections(model)[1]
    free = run(model, SAMPLED, watched=[read])
    firsts = sorted(
        {generation.watched["calm@2"][0] for generation in free}
    )  # a prompt's samples share one
    threshold = (firsts[0] + firsts[1]) / 2
    values = [generation.watched["calm@2"] for generation in free]
    assert any(max(row) > threshold >= row[0] for row in values)
    guard = replace(at_site(read, threshold, on_trip), pooling="last")
    for before, after in zip(free, run(model, SAMPLED, guards=[guard]), strict=True):
        trips = before.watched["calm@2"][0] > threshold
        assert [trip.token for trip in after.trips] == [0] * trips
        if not trips:
            assert after.text == before.text


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_guard_that_is_an_error_names_token_and_value(family: str) -> None:
    model = tiny.model(family)
    read = projections(model)[1]
    free = run(model, watched=[read])
    threshold = middle([value for generation in free for value in generation.watched["calm@2"]])
    with pytest.raises(GuardError) as caught:
        run(model, guards=[at_site(read, threshold, "error")])
    assert caught.value.exit_code == 3
    generation = next(
        generation for generation in free if max(generation.watched["calm@2"]) > threshold
    )
    highest = generation.watched["calm@2"].index(max(generation.watched["calm@2"]))
    assert f"at new token {highest}, {generation.tokens[highest]!r}" in str(caught.value)
    assert f"{generation.watched['calm@2'][highest]:.3g}" in str(caught.value)
    high = [at_site(read, max(v for m in free for v in m.watched["calm@2"]) + 1, "error")]
    assert run(model, guards=high) == run(model)


@families
def test_a_guard_that_ablates_does_so_from_the_token_on(family: str) -> None:
    model = tiny.model(family)
    read = projections(model)[0]
    free = run(model, SAMPLED, watched=[read])
    values = [value for generation in free for value in generation.watched["calm@1"]]
    threshold = sorted(values)[len(values) // 2]
    guard = at_site(read, threshold, "ablate")
    generations = run(model, SAMPLED, watched=[read], guards=[guard])
    for before, after in zip(free, generations, strict=True):
        first = next(
            (k for k, value in enumerate(before.watched["calm@1"]) if value > threshold), None
        )
        if first is None:
            assert (after.text, after.trips) == (before.text, [])
            continue
        assert [trip.token for trip in after.trips] == [first]
        assert after.tokens[:first] == before.tokens[:first]
        assert after.n_tokens == before.n_tokens
    assert any(generation.trips for generation in generations)
    assert [generation.text for generation in generations] != [
        generation.text for generation in free
    ]
    alone = [
        generation
        for prompt in PROMPTS
        for generation in generate(model, [prompt], steers(model), SAMPLED, guards=[guard])
    ]
    assert [generation.text for generation in alone] == [
        generation.text for generation in generations
    ]


@torch.no_grad()
def test_a_guard_that_ablates_leaves_nothing_at_its_site_cached_or_not() -> None:
    """Tripped at once: from the last prompt token on the projection is gone, and only there."""
    model = tiny.model("llama")
    read = projections(model)[0]
    ids = torch.tensor([model.encode(PROMPTS[1])])
    direction = torch.from_numpy(read.direction)
    clock = TokenClock(5, torch.zeros(1, dtype=torch.int64))
    watch = Watch([], [at_site(read, -1e9, "ablate")], clock)
    seen: list[torch.Tensor] = []

    function = watch.functions[read.site]

    def keep(resid: torch.Tensor) -> torch.Tensor | None:
        edited = function(resid)
        seen.append(resid if edited is None else edited)
        return edited

    with injected(model, [], clock, {read.site: keep}):
        model.network(input_ids=ids[:, :5], use_cache=False)
        model.network(input_ids=ids[:, :6], use_cache=False)
    for resid, n_gone in zip(seen, (1, 2), strict=True):
        share = (resid[0] @ direction).abs() / resid[0].norm(dim=-1)
        assert (share[-n_gone:] < 1e-5).all()
        assert (share[:-n_gone] > 1e-5).all()


def test_what_stands_behind_the_end_of_a_text_trips_nothing() -> None:
    """A row that a stop string has ended goes on unseen while the others run."""
    model = tiny.model("llama")
    read = projections(model)[1]
    free = run(model, watched=[read])
    word = free[0].tokens[1].strip()
    stopped = replace(GREEDY, stop=(word,))
    (short, *_) = run(model, stopped, watched=[read])
    assert short.finish == "stop"
    late = free[0].watched["calm@2"][2:]
    shown = [
        v
        for generation in run(model, stopped, watched=[read])
        for v in generation.watched["calm@2"]
    ]
    threshold = max(late)
    guards = [at_site(read, threshold - 1e-3, "error")]
    if max(shown) < threshold - 2e-3:
        assert run(model, stopped, guards=guards) == run(model, stopped)
    below = [at_site(read, max(shown) + 1e-3, "error")]
    assert run(model, stopped, guards=below) == run(model, stopped)


def test_a_guarded_stream_shows_nothing_of_what_trips() -> None:
    model = tiny.model("llama")
    read = projections(model)[1]
    (free,) = generate(model, PROMPTS[:1], [], GREEDY, watched=[read])
    threshold = middle(free.watched["calm@2"])
    for on_trip in ("stop", "error"):
        pieces: list[str] = []
        guards = [at_site(read, threshold, on_trip)]  # type: ignore[arg-type]
        (generation,) = generate(model, PROMPTS[:1], [], GREEDY, guards=[at_site(read, threshold)])
        if on_trip == "stop":
            list(generate(model, PROMPTS[:1], [], GREEDY, guards=guards, on_text=pieces.append))
        else:
            with pytest.raises(GuardError):
                list(generate(model, PROMPTS[:1], [], GREEDY, guards=guards, on_text=pieces.append))
        assert "".join(pieces) == generation.text


def test_beams_are_rows_that_run_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model("llama")
    n_prompts: list[int] = []
    run_batch = Batch.run

    def counted(batch: Batch) -> list[list[int]]:
        n_prompts.append(len(batch.rows) // batch.sampling.samples)
        return run_batch(batch)

    monkeypatch.setattr(Batch, "run", counted)
    sampling = replace(GREEDY, beams=4, samples=2, batch_size=8)
    generations = list(generate(model, PROMPTS, [], sampling))
    assert n_prompts == [2, 1]
    monkeypatch.undo()
    assert generations == list(generate(model, PROMPTS, [], replace(sampling, batch_size=100)))


def test_beams_are_not_watched() -> None:
    model = tiny.model("llama")
    beams = replace(GREEDY, beams=2)
    with pytest.raises(UsageError, match="beams"):
        run(model, beams, watched=projections(model))
    with pytest.raises(UsageError, match="does not sample"):
        Sampling(beams=2)
    with pytest.raises(UsageError, match="cannot end in 3"):
        Sampling(beams=2, samples=3, temperature=0)


def test_one_beam_is_greedy_and_more_find_what_is_likelier() -> None:
    model = tiny.model("llama")
    greedy = run(model)
    searched = run(model, replace(GREEDY, beams=4))
    assert [generation.text for generation in run(model, replace(GREEDY, beams=1))] == [
        m.text for m in greedy
    ]
    assert [generation.text for generation in searched] != [
        generation.text for generation in greedy
    ]

    def likelihood(generation: Generation, prompt: str) -> float:
        ids = torch.tensor([model.encode(prompt + " " + generation.text)])
        n = len(model.encode(prompt))
        with torch.no_grad(), injected(model, [], TokenClock(n, torch.zeros(1, dtype=torch.int64))):
            scores = model.network(input_ids=ids).logits.log_softmax(-1)[0]
        return float(scores[n - 1 : -1].gather(1, ids[0, n:, None]).sum())

    plain = list(generate(model, PROMPTS, [], GREEDY))
    beams = list(generate(model, PROMPTS, [], replace(GREEDY, beams=4)))
    for prompt, generation, other in zip(PROMPTS, plain, beams, strict=True):
        assert likelihood(other, prompt) >= likelihood(generation, prompt) - 1e-4
    several = list(generate(model, PROMPTS, [], replace(GREEDY, beams=4, samples=3)))
    assert [generation.sample for generation in several] == [0, 1, 2] * 3
    assert [generation.text for generation in several[::3]] == [
        generation.text for generation in beams
    ]
    assert len({generation.text for generation in several[:3]}) == 3


def test_ids_beyond_the_vocabulary_have_a_text() -> None:
    """An embedding matrix is often a little larger than the vocabulary, to be a round size."""
    assert isinstance(tiny.model("llama").token(10_000), str)
