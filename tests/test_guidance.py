"""Laws of live guidance: strength 1 is the prompt, 0 is none, and rows of a batch stay apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import tiny
import torch
from torch import Tensor
from typer.testing import CliRunner

from steer.base.errors import InputError, SiteError, UsageError
from steer.cli.main import app
from steer.generate.apply import generate, rows_of
from steer.generate.batch import Batch
from steer.generate.guidance import guidance, guide_activations, guided
from steer.steering.generation import Guide, Sampling

SAMPLING = Sampling(max_tokens=8, temperature=1.0, seed=3)
PROMPTS = ["w4 w7", "w60 w3 w18 w20"]


def texts(
    guides: Sequence[Guide],
    prompts: Sequence[str] = PROMPTS,
    sampling: Sampling = SAMPLING,
    family: str = "llama",
) -> list[str]:
    model = tiny.model(family)
    by = guidance(model, prompts, guides) if guides else None
    return [generation.text for generation in generate(model, prompts, (), sampling, guidance=by)]


def log_probs(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(*shape, generator=generator)).log_softmax(-1)


def test_strength_1_is_the_condition_and_0_the_baseline_bit_for_bit() -> None:
    rows = log_probs(5, 3, 11)
    assert torch.equal(guided(rows, (1.0, 0.0)), rows[:, 1])
    assert torch.equal(guided(rows, (0.0, 1.0)), rows[:, 2])
    assert torch.equal(guided(rows, (0.0, 0.0)), rows[:, 0])


@pytest.mark.parametrize("strength", [-1.0, 0.5, 2.0])
def test_log_odds_against_the_baseline_are_as_many_times_the_conditions(strength: float) -> None:
    rows = log_probs(5, 2, 11)
    moved = guided(rows, (strength,)).log_softmax(-1) - rows[:, 0]
    expected = strength * (rows[:, 1] - rows[:, 0])
    assert torch.allclose(moved.diff(dim=-1), expected.diff(dim=-1), atol=1e-4)


def test_two_conditions_add_up() -> None:
    rows = log_probs(5, 3, 11)
    both = guided(rows, (0.5, 2.0))
    expected = rows[:, 0] + 0.5 * (rows[:, 1] - rows[:, 0]) + 2 * (rows[:, 2] - rows[:, 0])
    assert torch.allclose(both, expected, atol=1e-4)


class Listening:
    """Keeps the logits of each step."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def scores(self, ids: Tensor, scores: Tensor) -> Tensor:
        self.seen.append(scores.clone())
        return scores

    def receive(self, ids: Tensor, scores: Tensor, **keywords: object) -> Tensor:
        return torch.zeros(len(ids), dtype=torch.bool)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_run_beside_the_plain_one_is_that_of_the_prompt(family: str) -> None:
    """Greedy at strength 1: at every step the distribution is the prompt's own."""
    model = tiny.model(family)
    greedy = replace(SAMPLING, temperature=0.0)
    by = guidance(model, PROMPTS[:1], [Guide("w5 w9 w33")])
    beside, alone = Listening(), Listening()
    rows = rows_of(model, PROMPTS[:1], greedy, special=True, guidance=by)
    written = Batch(model, rows, (), greedy, listener=beside, strengths=by.strengths).run()
    rows = rows_of(model, by.prompts[0], greedy, special=True)
    assert written == Batch(model, rows, (), greedy, listener=alone).run()
    for both, single in zip(beside.seen, alone.seen, strict=True):
        assert torch.allclose(both[1], single[0], atol=1e-3)


def test_strength_0_is_the_text_without_and_1_another() -> None:
    plain = texts([])
    assert texts([Guide("w5 w9 w33", 0.0)]) == plain
    assert texts([Guide("w5 w9 w33", 1.0)]) != plain
    assert texts([Guide("w5 w9 w33", 1.0)]) != texts([Guide("w5 w9 w33", -1.0)])


def test_a_prompt_gets_in_a_batch_what_it_gets_alone() -> None:
    guides = [Guide("w5 w9 w33", 1.5), Guide("w40 w2", -0.5)]
    together = texts(guides, sampling=replace(SAMPLING, samples=2))
    alone = [
        text
        for prompt in PROMPTS
        for text in texts(guides, [prompt], replace(SAMPLING, samples=2, batch_size=1))
    ]
    assert together == alone


def live(layer: int, strength: float = 1.0, sampling: Sampling = SAMPLING) -> list[str]:
    model = tiny.model("llama")
    by = guidance(model, PROMPTS, [Guide("w5 w9 w33", strength)], layer=layer)
    return [generation.text for generation in generate(model, PROMPTS, (), sampling, guidance=by)]


def test_guided_at_the_last_layer_strength_1_is_the_prompt_and_0_the_text_without() -> None:
    model = tiny.model("llama")
    last = model.n_layers - 1
    assert live(last) == texts([Guide("w5 w9 w33")]) != texts([])
    assert live(0, 0.0) == texts([])
    assert live(last, -1.0) != texts([]) != live(0)
    batch = replace(SAMPLING, batch_size=1)
    assert live(1, 2.0, batch) == live(1, 2.0)


def test_each_new_token_is_guided_once() -> None:
    """A row per prompt and one for each condition: only the newest position of plain rows moves."""
    resid = torch.arange(2 * 2 * 3 * 2.0).view(4, 3, 2)
    moved = guide_activations([0.5])(resid)
    assert moved is not None
    assert torch.equal(moved[1::2], resid[1::2])
    assert torch.equal(moved[::2, :-1], resid[::2, :-1])
    assert torch.equal(moved[::2, -1], (resid[::2, -1] + resid[1::2, -1]) / 2)
    same = guide_activations([1.0, 0.0])(torch.arange(3 * 2.0).view(3, 1, 2))
    assert same is not None
    assert torch.equal(same[0], same[1])


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(SiteError):
        guidance(tiny.model("llama"), PROMPTS, [Guide("w5")], layer=99)


def test_text_streams() -> None:
    model, pieces = tiny.model("llama"), list[str]()
    by = guidance(model, PROMPTS[:1], [Guide("w5 w9", 1.5)])
    (generation,) = generate(model, PROMPTS[:1], (), SAMPLING, on_text=pieces.append, guidance=by)
    assert "".join(pieces).strip() == generation.text.strip() != ""


def test_what_cannot_be_guided_says_why() -> None:
    model = tiny.chat_model("llama")
    with pytest.raises(InputError, match="changes nothing"):
        guidance(model, PROMPTS, [Guide("")])
    with pytest.raises(UsageError, match="finite"):
        Guide("w5", float("nan"))
    by = guidance(model, PROMPTS, [Guide("w5")], chat=True)
    with pytest.raises(UsageError, match="several prompts"):
        list(generate(model, PROMPTS, (), Sampling(beams=2, temperature=0), guidance=by))


def test_the_command_line() -> None:
    def steer(*words: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, [str(word) for word in words])
        return result.exit_code, result.stdout

    run = ("apply", "One day", "-m", "pocket", "--max-tokens", 12)
    condition = ("--condition", "[mood: joyful]")
    plain = steer(*run)
    assert plain[0] == 0
    assert steer(*run, *condition, "--strength", 0) == plain
    assert steer(*run, *condition, "--strength", 2)[1] not in ("", plain[1])
    assert steer(*run, "--strength", 2)[0] == 2
    assert steer(*run, "--live-layer", 2)[0] == 2
    assert steer(*run, *condition, "--live-layer", 99)[0] == 1
    assert steer(*run, *condition, "--live-layer", 2, "--strength", 0) == plain
    assert steer(*run, *condition, "--live-layer", 4) == steer(*run, *condition)
    assert steer(*run, *condition, "--strength", 1, "--strength", 2)[0] == 2
    assert steer(*run, *condition, "--beams", 2, "-t", 0)[0] == 2
    assert steer(*run, "--condition", "")[0] == 1
