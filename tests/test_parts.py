"""Attention heads and routers: what is read there, what an edit does, and which are chosen."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tiny
import torch
from families import FAMILIES, N_LAYERS, VOCABULARY
from recorded import pairs
from test_cli import steer
from torch import Tensor, nn

from steer.base.errors import SiteError, UsageError, VectorError
from steer.extraction import ReadSettings, extract
from steer.fitting.fitting import FitSettings
from steer.fitting.parts import masks, part_scores
from steer.hooks.clock import TokenClock
from steer.hooks.inject import injected
from steer.hooks.record import capture
from steer.models.model import Model
from steer.selftest import examine
from steer.steering.operation import Coefficient
from steer.steering.scope import EVERYWHERE, Scope
from steer.steering.steers import Steer
from steer.vectors import store
from steer.vectors.parts import Part, Parts, format_parts, parse_parts
from steer.vectors.sites import Site
from steer.vectors.vector import SteeringVector
from steer.workers import LocalWorker

#: The families of `families` with experts, and the layers that have them.
ROUTED = {"mixtral": (0, 1, 2), "qwen3_moe": (1, 2), "gpt_oss": (0, 1, 2)}
with_experts = pytest.mark.parametrize("family", ROUTED)
#: Without a linear layer after attention, or one that TransformerLens does not name.
WITHOUT_HEADS: set[str] = set()

SOME = pairs(*[(f"w{i} w{i + 7} w{i + 9}", f"w{i} w{i + 20} w{i + 3}") for i in range(3, 19)])


@cache
def model_of(family: str) -> Model:
    return tiny.model(family)


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(3, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(1))


def steer_at(model: Model, site: Site, delta: Tensor, scope: Scope = EVERYWHERE) -> Steer:
    """Adds exactly `delta` at a site with parts."""
    stream = tiny.vector(model, layers=(site.layer,))
    metadata = msgspec.structs.replace(
        stream.metadata, site=site.name, parts=model.hooks.parts[site.name]
    )
    vector = SteeringVector(metadata, delta.numpy()[None].astype("float32"))
    return Steer(vector, Coefficient(1), (site.layer,), scope)


@torch.no_grad()
def logits(model: Model, ids: Tensor, *steers: Steer) -> Tensor:
    clock = TokenClock(ids.shape[1], torch.zeros(len(ids), dtype=torch.int64))
    with injected(model, steers, clock):
        return torch.as_tensor(model.network(input_ids=ids).logits)


def read(model: Model, ids: Tensor, site: Site) -> Tensor:
    return capture(model, ids, torch.ones_like(ids), [site])[site]


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - WITHOUT_HEADS))
def test_heads_are_what_the_output_projection_reads(family: str, ids: Tensor) -> None:
    model = model_of(family)
    assert model.hooks.layers("heads") == tuple(range(N_LAYERS))
    assert model.hooks.parts["heads"].n == 4
    heads = Site(1, "heads")
    projection = model.network.get_submodule(model.hooks.place(heads).module)
    kept: list[Tensor] = []
    hook = projection.register_forward_hook(lambda _module, _args, output: kept.append(output))
    with torch.no_grad():
        model.network(input_ids=ids)
    hook.remove()
    seen = read(model, ids, heads)
    assert seen.shape == (*ids.shape, model.hooks.width("heads"))
    with torch.no_grad():
        assert torch.equal(projection(seen), kept[0])


def test_an_edit_of_a_head_is_that_of_what_it_adds(ids: Tensor) -> None:
    model = model_of("llama")
    delta = torch.zeros(model.hooks.width("heads"))
    delta[8:16] = torch.randn(8, generator=torch.Generator().manual_seed(3))
    site = Site(1, "heads")
    projection = model.network.get_submodule(model.hooks.place(site).module)
    assert isinstance(projection, nn.Linear)
    added = projection.weight.detach() @ delta
    expected = logits(model, ids, tiny.steer_at(model, Site(1, "attn_out"), added))
    steered = logits(model, ids, steer_at(model, site, delta))
    torch.testing.assert_close(steered, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(steered, logits(model, ids))


@with_experts
def test_a_router_is_found_where_there_are_experts(family: str, ids: Tensor) -> None:
    model = model_of(family)
    assert model.hooks.layers("router") == ROUTED[family]
    assert model.hooks.parts["router"] == Parts(n=4, width=1)
    site = Site(1, "router")
    router = model.network.get_submodule(model.hooks.place(site).module)
    kept: list[Tensor] = []
    hook = router.register_forward_hook(lambda _module, _args, output: kept.append(output[0]))
    with torch.no_grad():
        model.network(input_ids=ids)
    hook.remove()
    assert torch.equal(read(model, ids, site).flatten(0, 1), kept[0].flatten(0, -2))


@with_experts
def test_a_raised_expert_is_chosen_and_a_lowered_one_is_not(family: str, ids: Tensor) -> None:
    model, site = model_of(family), Site(1, "router")
    router = model.network.get_submodule(model.hooks.place(site).module)
    chosen: list[Tensor] = []
    hook = router.register_forward_hook(lambda _module, _args, output: chosen.append(output[2]))
    for raised, expected in ((100.0, True), (-100.0, False)):
        chosen.clear()
        logits(model, ids, steer_at(model, site, torch.tensor([0.0, 0.0, raised, 0.0])))
        assert ((chosen[0] == 2).any(-1) == expected).all()
    hook.remove()


@with_experts
def test_the_same_for_all_experts_changes_nothing(family: str, ids: Tensor) -> None:
    model, site = model_of(family), Site(1, "router")
    steered = logits(model, ids, steer_at(model, site, torch.full((4,), 2.0)))
    torch.testing.assert_close(steered, logits(model, ids), rtol=1e-4, atol=1e-5)


@with_experts
def test_an_edit_of_a_router_keeps_to_its_positions(family: str, ids: Tensor) -> None:
    model, site = model_of(family), Site(model_of(family).n_layers - 1, "router")
    delta = torch.tensor([3.0, -3.0, 0.0, 1.0])
    clock = TokenClock(4, torch.zeros(len(ids), dtype=torch.int64))
    steer = steer_at(model, site, delta, Scope("response"))
    with torch.no_grad(), injected(model, [steer], clock):
        steered = torch.as_tensor(model.network(input_ids=ids).logits)
    plain = logits(model, ids)
    # In the last layer an edit reaches only its own position; the prompt has four tokens.
    assert torch.equal(steered[:, :3], plain[:, :3])
    assert not torch.allclose(steered[:, 4:], plain[:, 4:])


@pytest.mark.parametrize("family", ["llama", "gpt2", *ROUTED])
def test_the_self_test_covers_them(family: str) -> None:
    """Batched as alone, 0 as unsteered, with a cache as without, and nothing stays."""
    for check in examine(model_of(family)):
        assert check.passed, check


@pytest.mark.parametrize(("family", "site"), [("llama", "heads"), ("mixtral", "router")])
def test_a_vector_of_parts_is_kept_in_a_file(family: str, site: str, tmp_path: Path) -> None:
    read_settings = ReadSettings((site,))  # type: ignore[arg-type]
    model = LocalWorker(model_of(family))
    vector = extract(model, SOME, read_settings, FitSettings("x", keep=3)).best
    assert len(vector.kept_parts) == 3
    assert vector.metadata.recommended.layers == vector.metadata.layers
    written = store.write(tmp_path / "x.safetensors", vector)
    again = store.write(tmp_path / "y.safetensors", store.read(tmp_path / "x.safetensors"))
    assert written.sha256 == again.sha256
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()
    # What is kept is the mean difference of those parts, and 0 elsewhere.
    expected = extract(model, SOME, read_settings, FitSettings("x", keep=10_000)).best
    for part in vector.kept_parts:
        width = vector.metadata.parts.width  # type: ignore[union-attr]
        here = slice(part.number * width, (part.number + 1) * width)
        assert np.array_equal(
            vector.direction(part.layer)[here], expected.direction(part.layer)[here]
        )
    named = extract(model, SOME, read_settings, FitSettings("x", keep=vector.kept_parts)).best
    assert np.array_equal(named.directions, vector.directions)


def test_the_head_that_tells_the_sides_apart_is_chosen(tmp_path: Path) -> None:
    from test_fit import stored

    rng = np.random.default_rng(0)
    positive, negative = rng.normal(size=(2, 40, 16))
    positive[:, 8:12] += 2.0
    sites = (Site(0, "heads"), Site(2, "heads"))
    with stored(
        tmp_path / "a", positive, negative, parts=Parts(n=4, width=4), sites=sites
    ) as recorded_file:
        scores = part_scores(recorded_file, 0)
        assert int(np.argmax(scores)) == 2 and scores[2] > 0.9
        assert max(scores[:2]) < 0.75
        chosen = masks(recorded_file, [0], 1)
        assert chosen[0].tolist() == [8 <= index < 12 for index in range(16)]
        assert list(masks(recorded_file, [0, 1], (Part(2, 0),))) == [1]
        with pytest.raises(SiteError, match=r"no head 0\.4: a layer has 4") as caught:
            masks(recorded_file, [0], (Part(0, 4),))
        assert caught.value.hint == "use 0.0 to 0.3"
        with pytest.raises(SiteError, match="not recorded"):
            masks(recorded_file, [0], (Part(1, 0),))


def test_parts_are_typed() -> None:
    assert parse_parts("48") == 48
    assert parse_parts(" 14.0, 2.3,2.3 ") == (Part(2, 3), Part(14, 0))
    assert format_parts([Part(14, 0), Part(2, 3)]) == "2.3, 14.0"
    assert format_parts((Part(0, n) for n in range(5)), most=2) == "0.0, 0.1 and 3 more"
    for text in ("", "0", "a", "1.", ".2", "1.2.3", "-1.2", "1,2", "9999999.1"):
        with pytest.raises(UsageError, match="names no heads"):
            parse_parts(text)


def test_sites_of_other_widths_are_read_apart() -> None:
    with pytest.raises(SiteError, match="different widths") as caught:
        extract(
            LocalWorker(model_of("llama")),
            SOME,
            ReadSettings(("heads", "resid_post")),
            FitSettings("x"),
        )
    assert caught.value.hint


def test_a_file_that_contradicts_its_parts_is_refused() -> None:
    model = model_of("llama")
    steer = steer_at(model, Site(1, "heads"), torch.ones(model.hooks.width("heads")))
    for changes in ({"parts": None}, {"site": "resid_post"}, {"parts": Parts(n=1, width=3)}):
        with pytest.raises((ValueError, VectorError)):
            SteeringVector(
                msgspec.structs.replace(steer.vector.metadata, **changes), steer.vector.directions
            )


@pytest.mark.parametrize(("family", "site"), [("llama", "heads"), ("mixtral", "router")])
def test_every_command_takes_them(family: str, site: str, tmp_path: Path) -> None:
    def run(*words: object) -> str:
        result = steer(*words)
        assert result.exit_code == 0, result.output + result.stderr
        return result.stdout

    model = tiny.save(tmp_path / family, family)
    for name, numbers in (("pairs.jsonl", range(3, 25)), ("held-out.jsonl", range(25, 37))):
        lines = [
            json.dumps({"positive": f"w{i} w{i + 7} w9", "negative": f"w{i} w{i + 20} w9"})
            for i in numbers
        ]
        Path(name).write_text("\n".join(lines))
    recorded = ["extract", "pairs.jsonl", "-m", model, "--site", site, "--keep", "acts"]
    run(*recorded, "--parts", "2", "-o", "a.safetensors")
    run("fit", "acts", "--parts", "1.2", "-o", "b.safetensors")
    assert store.read(Path("b.safetensors")).kept_parts == (Part(1, 2),)
    text = ["apply", "The w5", "-m", model, "--max-tokens", "12", "--temperature", "0"]
    plain, steered = run(*text), run(*text, "-v", "./a.safetensors:60")
    assert plain != steered
    few = ["--samples", "2", "--max-tokens", "4"]
    sweep = steer("sweep", "-v", "./a", "-m", model, "--texts", "held-out.jsonl", *few)
    assert sweep.exit_code == 0 or "nothing to recommend" in sweep.stderr, sweep.stderr
    assert run("monitor", "w4 w9 w11", "-m", model, "-v", "./a.safetensors")
    assert "1.2" in run("show", "./b.safetensors")
    assert run("compare", "./a.safetensors", "./b.safetensors")
    result = steer("bake", "-v", "./a.safetensors:1", "-m", model, "-o", "baked")
    assert result.exit_code == 1 and "cannot be baked" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--parts", "3"], "--parts is for attention heads"),
        (["--site", "heads", "--parts", "3.x"], "names no heads"),
        (["--site", "heads", "--parts", "1.44"], "no head 1.44"),
        (["--site", "heads,resid_post"], "different widths"),
        (["--site", "router"], "has no router"),
    ],
)
def test_what_cannot_be_kept_is_refused(words: list[str], message: str) -> None:
    Path("pairs.jsonl").write_text('{"positive": "a b", "negative": "a c"}\n')
    result = steer("extract", "pairs.jsonl", "-o", "x.safetensors", *words)
    assert result.exit_code in (1, 2) and message in result.stderr
    assert not Path("x.safetensors").exists()
