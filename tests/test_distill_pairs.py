"""Laws of distilling pairs, on a tiny random model: by the log-ratio of the two completions."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from recorded import pairs
from test_distill import SMALL, _one_thread, folder, planted, steer, unspread  # noqa: F401  (fixtures)

from steer.base.errors import InputError
from steer.contrasts.contrasts import Contrasts
from steer.contrasts.passages import Passage
from steer.distillation.distill import fit_pairs
from steer.distillation.lowrank import Edits
from steer.distillation.pairs import BETA, Preference, preference
from steer.models.model import Model
from steer.vectors import store
from steer.vectors.sites import Site

#: After the same words, one word or another.
ROWS = [(f"w{i} w{i + 3} w8 w20", f"w{i} w{i + 3} w9") for i in range(3, 33)]
SETTINGS = replace(SMALL, samples=1, held_out=1, steps=40)


def task(rows: Sequence[tuple[str, str]] = ROWS) -> Preference:
    return preference(tiny.model("llama"), pairs(*rows), SETTINGS)


def log_prob(model: Model, ids: Sequence[int], n: int) -> float:
    """Of the last n tokens, one text at a time."""
    with torch.no_grad():
        scores = model.network(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(scores[place - 1, ids[place]]) for place in range(len(ids) - n, len(ids)))


def test_the_log_ratio_is_that_of_each_completion_alone() -> None:
    preferred = task()
    some = preferred.lessons[:5]
    for pair, log_ratio in zip(some, preferred.log_ratios(some, None), strict=True):
        positive, negative = (
            log_prob(preferred.model, side.baseline, side.n)
            for side in (pair.positive, pair.negative)
        )
        assert log_ratio == pytest.approx(positive - negative, abs=1e-4)
        assert (pair.positive.n, pair.negative.n) == (2, 1)
        assert preferred.base[pair] == pytest.approx(log_ratio, abs=1e-4)


def test_no_edit_has_the_loss_of_a_coin_and_an_edit_that_of_its_log_ratio() -> None:
    preferred = task()
    nothing = Edits(preferred.model, unspread(Site(1)), 2, seed=0, start=0)
    assert preferred.losses(nothing, preferred.held_out) == pytest.approx(
        [math.log(2)] * len(preferred.held_out), abs=1e-5
    )
    assert preferred.recovered(nothing) == pytest.approx(0, abs=1e-5)
    some = preferred.held_out[:4]
    edits = planted(preferred.model, 2, [Site(1)])
    after = preferred.log_ratios(some, edits)
    for pair, ratio, loss in zip(some, after, preferred.losses(edits, some), strict=True):
        shift = BETA * (ratio - preferred.base[pair])
        assert loss == pytest.approx(math.log1p(math.exp(-shift)), abs=1e-4)


def test_the_parts_of_a_batch_have_the_gradient_of_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    preferred = task()
    gradients = []
    for budget in (1 << 30, 1):
        monkeypatch.setattr("steer.distillation.lessons.LOGITS_BUDGET", budget)
        edits = planted(preferred.model, 2, [Site(1)])
        preferred.backward(edits, preferred.lessons[:6])
        gradients.append([part.grad for part in edits.parameters])
    for full_gradient, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(full_gradient, parts, rtol=1e-3, atol=1e-6)


def test_held_out_pairs_prefer_the_positive_completion_afterwards() -> None:
    preferred = task()
    vector = fit_pairs(preferred, SETTINGS)
    distillation = vector.metadata.method.distillation
    assert distillation is not None
    assert distillation.objective == "pairs"
    assert 0 < distillation.interval[0] <= distillation.recovery <= 1
    assert (distillation.samples, distillation.held_out) == (18, 6)
    assert vector.metadata.contrast.sha256 == pairs(*ROWS).sha256
    again = fit_pairs(task(), SETTINGS)
    assert store.to_bytes(again.sealed()) == store.to_bytes(vector.sealed())


def test_what_judges_is_not_known_by_another_completion_nor_twice() -> None:
    model = tiny.model("llama")
    prompted = [
        (f"w{i} w{i + 3} ", f"w{8 + turn} w20", f"w{12 + turn} w9")
        for i in range(3, 23)
        for turn in range(3)
    ]
    sides = [tuple(Passage(row[0], row[side]) for row in prompted) for side in (1, 2)]
    for contrasts, n in ((Contrasts("pairs", *sides), 60), (pairs(*ROWS, *ROWS), 60)):
        preferences = preference(model, contrasts, SETTINGS)
        parts = preferences.held_out, preferences.validation, preferences.lessons
        assert list(map(len, parts)) == [n // 5, n // 5, 3 * n // 5]
        known = [{pair.positive.baseline[:3] for pair in part} for part in parts]
        assert sum(map(len, known)) == len(set.union(*known))


@pytest.mark.parametrize(
    ("contrasts", "message"),
    [
        (pairs(*ROWS[:9]), "it takes 10"),
        (pairs(*ROWS[:9], *ROWS[:9]), "it takes 10"),
        (replace(pairs(*ROWS), paired=False), "needs pairs"),
        (pairs(*[(a, b + " w4" * 130) for a, b in ROWS]), "takes 128"),
    ],
)
def test_what_cannot_be_told_apart_says_why(contrasts: Contrasts, message: str) -> None:
    with pytest.raises(InputError, match=message):
        preference(tiny.model("llama"), contrasts, replace(SETTINGS, max_tokens=200))


def test_the_command_takes_pairs(folder: Path) -> None:  # noqa: F811
    lines = [json.dumps({"good": a, "negative": b}) for a, b in ROWS]
    Path("pairs.jsonl").write_text("\n".join(lines))
    result = steer(
        *("distill", "--contrasts", "pairs.jsonl", "--map", "positive=good", "-m", folder),
        *("--steps", 20, "--rank", 2, "--layers", 1, "-o", "x.safetensors"),
    )
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert "positive likelier in" in result.stdout
    shown = steer("show", "x.safetensors").stdout
    assert "distill of 18 pairs" in shown
    assert "acts on all" in shown
    assert steer("verify", "x.safetensors", "-m", folder).exit_code == 0
    assert steer("apply", "w4 w7", "-m", folder, "-v", "x.safetensors").exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name either a condition or pairs"),
        (("--condition", "w5", "--contrasts", "pairs.jsonl"), "name either a condition or pairs"),
        (("--contrasts", "pairs.jsonl", "--baseline", "w3"), "need --condition"),
    ],
)
def test_conditions_and_pairs_are_two_ways(words: tuple[str, ...], message: str) -> None:
    result = steer("distill", "-o", "x.safetensors", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
