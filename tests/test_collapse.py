"""One vector for many steers: the model does with it what it does with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tiny
import torch
from conftest import make_vector
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import failed, folder, joyful, pairs, steer  # noqa: F401  (fixtures)

from steer.base.errors import VectorError
from steer.hooks.clock import TokenClock
from steer.hooks.inject import injected
from steer.models.model import Model
from steer.steering import spec
from steer.steering.collapse import collapse
from steer.steering.named import resolved
from steer.steering.operation import Coefficient
from steer.steering.recipe import read
from steer.steering.scope import Scope
from steer.steering.steers import Steer, resolve
from steer.vectors import store
from steer.vectors.vector import SteeringVector


def logits(model: Model, steers: list[Steer]) -> torch.Tensor:
    ids = torch.arange(3, 15).reshape(2, 6)
    clock = TokenClock(prompt_length=4, padding=torch.zeros(2, dtype=torch.int64))
    with torch.no_grad(), injected(model, steers, clock):
        return model.network(input_ids=ids).logits


def full_steer(vector: SteeringVector) -> Steer:
    """As `-v NAME` applies it."""
    return resolve(spec.SteerSpec(vector.name), vector)


def parts(model: Model, scope: Scope, seed: int, low_rank: bool) -> list[Steer]:
    rng = np.random.default_rng(seed)
    calls = []
    for number in range(int(rng.integers(1, 4))):
        kind = tiny.low_rank_steer if low_rank and number != 1 else tiny.steer
        layers = tuple(sorted(int(i) for i in rng.permutation(3)[: rng.integers(1, 4)]))
        calls.append(
            kind(model, float(rng.normal()), scope, layers=layers, seed=int(rng.integers(99)))
        )
    return calls


def response(steers: list[Steer]) -> list[Steer]:
    """The same, of vectors that were distilled for the response."""
    read = msgspec.structs.replace(steers[0].vector.metadata.read, positions="response")
    return [
        replace(
            steer,
            vector=replace(
                steer.vector, metadata=msgspec.structs.replace(steer.vector.metadata, read=read)
            ),
        )
        for steer in steers
    ]


@given(st.integers(0, 10_000), st.booleans(), st.sampled_from(["llama", "gpt2", "qwen3"]))
@settings(max_examples=25)
def test_collapsed_the_steers_do_what_they_do_apart(seed: int, low_rank: bool, family: str) -> None:
    model = tiny.model(family)
    for kind in ("all", "response"):
        steers = parts(model, Scope(kind), seed, low_rank)  # type: ignore[arg-type]
        if kind == "response":
            steers = response(steers)
        vector = collapse(steers, name="all")
        apart, together = logits(model, steers), logits(model, [full_steer(vector)])
        torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)
        assert not torch.equal(together, logits(model, []))
        assert vector.metadata.layers == tuple(
            sorted({at for steer in steers for at in steer.layers})
        )
        ranks = [
            sum(steer.vector.metadata.rank for steer in steers if layer in steer.layers)
            for layer in vector.metadata.layers
        ]
        assert vector.metadata.rank == max(ranks)


def test_a_collapsed_file_is_written_and_read_as_others() -> None:
    model = tiny.model("llama")
    vector = collapse(parts(model, Scope(), 5, True), name="all", description="x", license="MIT")
    assert vector.metadata.rank
    store.write(Path("all.safetensors"), vector)
    again = store.read(Path("all.safetensors"))
    assert store.to_bytes(again) == store.to_bytes(vector.sealed())
    once_more = collapse([full_steer(again)], name="all", description="x", license="MIT")
    for name, tensor in again.tensors.items():
        np.testing.assert_array_equal(once_more.tensors[name], tensor)
    for row in again.metadata.statistics:
        assert row.positive is None and row.negative is None and row.separability is None


def test_a_share_of_the_residual_is_resolved() -> None:
    model = tiny.model("llama")
    vector = tiny.vector(model, layers=(0, 1))
    share = Steer(vector, Coefficient(0.3, "residual"), (0, 1))
    collapsed = collapse([share], name="x")
    for layer in (0, 1):
        length = float(np.linalg.norm(collapsed.direction(layer)))
        assert length == pytest.approx(0.3 * vector.metadata.at(layer).resid_norm, rel=1e-5)


def test_the_same_tensor_by_two_names_is_one_site() -> None:
    model = tiny.model("llama")
    pre, post = (
        tiny.steer(model, layers=(layer,), site=site, seed=layer)
        for layer, site in ((2, "resid_pre"), (1, "resid_post"))
    )
    vector = collapse([pre, post], name="x")
    assert (vector.metadata.site, vector.metadata.layers) == ("resid_post", (1,))
    torch.testing.assert_close(logits(model, [full_steer(vector)]), logits(model, [pre, post]))
    first = tiny.steer(model, layers=(0, 2), site="resid_pre")
    alone = collapse([first], name="x")
    assert (alone.metadata.site, alone.metadata.layers) == ("resid_pre", (0, 2))


def test_one_and_its_negative_leave_nothing() -> None:
    model = tiny.model("llama")
    for kind in (tiny.steer, tiny.low_rank_steer):
        both = [kind(model, coefficient) for coefficient in (1.5, -1.5)]
        with pytest.raises(VectorError, match="nothing is left"):
            collapse(both, name="x")


def test_what_no_vector_stands_for_is_refused() -> None:
    model, other = tiny.model("llama"), tiny.model("gpt2")
    steer = tiny.steer(model)
    for steers, message in (
        ([], "nothing to combine"),
        ([steer, tiny.steer(other)], "models differ"),
        ([steer, tiny.steer(model, site="mlp_out")], "sites differ"),
        ([steer, tiny.steer(model, scope=Scope("response"))], "different parts of the text"),
        ([tiny.steer(model, scope=Scope("prompt"))], "cannot say that it acts on prompt"),
        ([tiny.steer(model, scope=Scope("range", 2))], "cannot say that it acts on 2-"),
        (
            [tiny.steer(model, scope=Scope("response", inverted=True))],
            "cannot say that it acts on not-response",
        ),
        (
            [tiny.steer(model, scope=Scope(skip_special=True))],
            "cannot say that it acts on all/skip-special",
        ),
    ):
        with pytest.raises(VectorError, match=message):
            collapse(steers, name="x")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('"joyful:ablate@1"', "ablate @ resid_post 1 does not add"),
        ('"joyful:ablate=writes@1"', "does not add"),
        ('"joyful:0.5,clamp=0@1"', "does not add"),
        ('"joyful:rotate=20@1"', "does not add"),
        ('"joyful:2,norm=keep@1"', "depends on the activations"),
        ('"joyful:2@1/decay=20"', "changes from token to token"),
        ('"joyful:2@1/on=0-3"', "changes from token to token"),
        ('{ vector = "joyful:2@1", when = "joyful@0>0.4" }', "waits for a gate"),
        ('"joyful:2@1/response=0-4"', "different parts of the text"),
    ],
)
def test_what_is_no_constant_add_is_refused(
    joyful: Path, entry: str, message: str  # noqa: F811
) -> None:  # fmt: skip
    Path("a.toml").write_text(f'steers = ["joyful", {entry}]')
    failed(steer("combine", "--recipe", "a.toml", "-o", "x.safetensors"), 1, message)
    assert not Path("x.safetensors").exists()


def test_combine_collapses_a_recipe(joyful: Path, folder: Path) -> None:  # noqa: F811
    Path("a.toml").write_text('description = "both"\nsteers = ["joyful:2@1", "joyful:30%@0"]\n')
    result = steer("combine", "--recipe", "a.toml", "-o", "vectors/both.safetensors")
    assert result.exit_code == 0, result.stderr
    from steer.models.loading import load
    from steer.models.source import ModelSource

    model = load(ModelSource(str(folder)))
    apart = resolved(read(Path("a.toml")).steers)
    vector = store.read(Path("vectors/both.safetensors"))
    assert vector.metadata.description == "both"
    torch.testing.assert_close(
        logits(model, [full_steer(vector)]), logits(model, apart), atol=1e-5, rtol=1e-5
    )
    assert "sum of joyful:2 + joyful:30%" in steer("show", "both").stdout


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "name vectors to combine"),
        (["calm", "--recipe", "a.toml"], 2, "or a --recipe"),
        (["--recipe", "a.toml", "--op", "mean"], 2, "is a sum"),
        (["--recipe", "none.toml"], 1, "none.toml"),
        (["--recipe", "a.toml"], 1, "act on different parts"),
    ],
)
def test_combine_commands_that_are_wrong(words: list[str], code: int, message: str) -> None:
    store.write(Path("calm.safetensors"), make_vector())
    Path("a.toml").write_text('steers = ["./calm.safetensors:1", "./calm.safetensors:1/response"]')
    failed(steer("combine", *words, "-o", "x.safetensors"), code, message)
    assert not Path("x.safetensors").exists()
