"""The map of every family is held against TransformerLens's own bridge, which is the oracle."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import tiny
import torch
import transformers
from families import D_MODEL, FAMILIES, N_LAYERS, VOCABULARY, build, randomised
from torch import Tensor
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformer_lens.utilities.attn_implementation import force_eager_attention

from steer.base.errors import ModelError, SiteError
from steer.base.files import cache_folder, write_cached
from steer.hooks.clock import TokenClock
from steer.hooks.inject import injected
from steer.hooks.record import capture
from steer.models import hookmap_cache as cached_maps
from steer.models.hookmap import HookMap, HookPoint
from steer.models.hookmap_cache import hook_map
from steer.models.model import Model
from steer.vectors.sites import SITE_KINDS, STREAM_SITES, Site, SiteName

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}

# What a family lacks, and why.
MISSING: dict[str, set[SiteName]] = {
    "granite": {"attn_out", "mlp_out"},  # scaled by the block, outside every module
    "opt": {"mlp_out"},  # rows: [batch * positions, d_model]
}


def stream_sites(hook_points: HookMap) -> list[SiteName]:
    """The sites of a map that are as wide as the model; tests/test_parts.py has the others."""
    return [name for name in hook_points.sites if name in STREAM_SITES]


def as_model(network: torch.nn.Module) -> Model:
    """The map and the hooks need no tokenizer that has learned anything."""
    return tiny.wrapped(network, "tiny")


def read(network: torch.nn.Module, sites: Iterable[Site], input_ids: Tensor) -> dict[Site, Tensor]:
    """What is at `sites`, each [batch, positions, d_model]."""
    return capture(as_model(network), input_ids, torch.ones_like(input_ids), list(sites))


@torch.no_grad()
def write(network: torch.nn.Module, site: Site, vector: Tensor, input_ids: Tensor) -> Tensor:
    """Logits with `vector` added at `site`, at all positions."""
    model = as_model(network)
    steer = tiny.steer_at(model, site, vector)
    clock = TokenClock(input_ids.shape[1], torch.zeros(len(input_ids), dtype=torch.int64))
    with injected(model, [steer], clock):
        logits: Tensor = network(input_ids).logits
    return logits


@cache
def model_of(family: str) -> torch.nn.Module:
    return build(family)


@cache
def map_of(family: str) -> HookMap:
    return hook_map(model_of(family))


@cache
def bridge_of(family: str) -> Any:
    # The bridge takes the model's modules apart, so it gets a model of its own.
    model = build(family)
    force_eager_attention(model)
    return build_bridge_from_module(
        model, type(model).__name__, hf_config=copy.deepcopy(model.config)
    )


@pytest.fixture(scope="module")
def input_ids() -> Tensor:
    return torch.randint(3, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def vector() -> Tensor:
    # Not all ones: a norm that removes the mean would not see it.
    return torch.randn(D_MODEL, generator=torch.Generator().manual_seed(2))


each_family = pytest.mark.parametrize("family", FAMILIES)


@each_family
def test_a_cached_map_is_taken_if_its_layers_are_those_of_the_model(family: str) -> None:
    """Each map passes, and none whose layers were exchanged: they would be steered silently."""
    network, right = model_of(family), map_of(family)
    assert cached_maps._fits(right, network)
    first, last = (Site(layer, "resid_post") for layer in (0, N_LAYERS - 1))
    swapped = {**right.places, first: right.places[last], last: right.places[first]}
    missing = {**right.places, first: HookPoint("model.layers.0.none", "output")}
    for places in (swapped, missing, {**right.places, Site(99): right.places[first]}):
        assert not cached_maps._fits(replace(right, places=places), network)


def test_a_map_in_the_cache_that_is_wrong_is_made_anew() -> None:
    network, right = model_of("gpt2"), map_of("gpt2")
    file = cache_folder("hooks") / f"{cached_maps._key(network)}.json"
    first, second = Site(0, "resid_post"), Site(1, "resid_post")
    swapped = {**right.places, first: right.places[second], second: right.places[first]}
    for data in (cached_maps._encode(replace(right, places=swapped)), b"{}", b"[" * 9_000, b""):
        write_cached(file, data)
        assert hook_map(network) == right
    write_cached(file, cached_maps._encode(right))
    file.chmod(0o666)  # anybody can have written it
    assert hook_map(network) == right
    assert file.stat().st_mode & 0o077 == 0


@each_family
def test_every_layer_has_every_listed_site(family: str) -> None:
    hook_points = map_of(family)
    assert (hook_points.architecture, hook_points.n_layers, hook_points.d_model) == (
        type(model_of(family)).__name__,
        N_LAYERS,
        D_MODEL,
    )
    assert set(STREAM_SITES) - set(hook_points.sites) == MISSING.get(family, set())
    for name in stream_sites(hook_points):
        assert hook_points.layers(name) == tuple(range(N_LAYERS))
        for layer in hook_points.layers(name):
            model_of(family).get_submodule(hook_points.place(Site(layer, name)).module)


@each_family
def test_paths_outside_the_blocks_exist(family: str) -> None:
    hook_points = map_of(family)
    for path in (hook_points.embed, hook_points.final_norm, hook_points.unembed):
        assert path is not None
        model_of(family).get_submodule(path)


@each_family
@torch.no_grad()
def test_reads_what_the_bridge_reads(family: str, input_ids: Tensor) -> None:
    sites = [site for site in map_of(family).places if site.name in STREAM_SITES]
    seen = read(model_of(family), sites, input_ids)
    _, oracle = bridge_of(family).run_with_cache(input_ids)
    assert len(seen) == len(sites)
    for site in sites:
        assert seen[site].shape == (*input_ids.shape, D_MODEL)
        torch.testing.assert_close(
            seen[site], oracle[site.hook_name], **TOLERANCE, msg=lambda m, s=site: f"{s}: {m}"
        )


@each_family
@torch.no_grad()
def test_writes_what_the_bridge_writes(family: str, input_ids: Tensor, vector: Tensor) -> None:
    model, hook_points, bridge = model_of(family), map_of(family), bridge_of(family)
    plain = model(input_ids).logits
    for name in stream_sites(hook_points):
        site = Site(1, name)
        steered = write(model, site, vector, input_ids)
        oracle = bridge.run_with_hooks(
            input_ids, fwd_hooks=[(site.hook_name, lambda tensor, hook: tensor + vector)]
        )
        torch.testing.assert_close(steered, oracle, **TOLERANCE, msg=lambda m, s=site: f"{s}: {m}")
        assert (steered - plain).abs().max() > 0.01, f"{site} changes nothing"
    torch.testing.assert_close(model(input_ids).logits, plain, rtol=0, atol=0)


@each_family
def test_residual_stream_is_a_sum(family: str, input_ids: Tensor) -> None:
    hook_points = map_of(family)
    seen = read(model_of(family), hook_points.places, input_ids)
    for layer in range(N_LAYERS - 1):
        assert torch.equal(seen[Site(layer, "resid_post")], seen[Site(layer + 1, "resid_pre")])
    if "mlp_out" not in hook_points.sites:
        return
    for layer in range(N_LAYERS):
        parts: tuple[SiteName, ...] = ("resid_pre", "attn_out", "mlp_out")
        total = sum(seen[Site(layer, name)] for name in parts)
        torch.testing.assert_close(seen[Site(layer, "resid_post")], total, **TOLERANCE)


@each_family
@torch.no_grad()
def test_resid_pre_0_is_the_embedding(family: str, input_ids: Tensor) -> None:
    site = Site(0, "resid_pre")
    seen = read(model_of(family), [site], input_ids)
    hidden_states = model_of(family)(input_ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(seen[site], hidden_states[0], **TOLERANCE)


@torch.no_grad()
def test_resid_pre_0_of_a_llama_is_its_embedding_matrix(input_ids: Tensor) -> None:
    model = model_of("llama")
    site = Site(0, "resid_pre")
    seen = read(model, [site], input_ids)
    assert torch.equal(seen[site], model.get_submodule("model.embed_tokens")(input_ids))


@torch.no_grad()
def test_the_model_is_left_as_it_was(input_ids: Tensor) -> None:
    model = build("falcon")
    before, modules = model(input_ids).logits, dict(model.named_modules())
    config = model.config.to_dict()
    hook_map(model)
    assert dict(model.named_modules()) == modules
    assert model.config.to_dict() == config
    assert all(
        type(module).__module__.startswith(("torch", "transformers")) for module in modules.values()
    )
    assert not any(
        module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
        for module in modules.values()
    )
    assert torch.equal(model(input_ids).logits, before)


def test_the_class_decides_when_the_configuration_names_no_architecture() -> None:
    model = build("granite")
    model.config.architectures = None
    assert hook_map(model) == map_of("granite")


@pytest.mark.parametrize(
    ("family", "site", "message", "hint"),
    [
        (
            "granite",
            Site(0, "attn_out"),
            "GraniteForCausalLM has no attn_out",
            "it has resid_pre, heads and resid_post",
        ),
        (
            "opt",
            Site(2, "mlp_out"),
            "OPTForCausalLM has no mlp_out",
            "it has resid_pre, heads, attn_out and resid_post",
        ),
        ("llama", Site(3), "LlamaForCausalLM has no layer 3", "its layers are 0-2"),
        ("granite", Site(7, "attn_out"), "GraniteForCausalLM has no layer 7", "its layers are 0-2"),
    ],
)
def test_a_missing_site_names_what_there_is(
    family: str, site: Site, message: str, hint: str
) -> None:
    with pytest.raises(SiteError) as caught:
        map_of(family).place(site)
    assert (str(caught.value), caught.value.hint) == (message, hint)


def hybrid() -> torch.nn.Module:
    """Layers 1 and 3 have attention, the others a convolution."""
    config = transformers.Lfm2Config(
        vocab_size=VOCABULARY,
        hidden_size=D_MODEL,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=["conv", "full_attention"] * 2,
    )
    return randomised(transformers.Lfm2ForCausalLM, config)


def test_a_hybrid_model_has_a_site_at_some_layers(input_ids: Tensor) -> None:
    model = hybrid()
    hook_points = hook_map(model)
    assert stream_sites(hook_points) == list(STREAM_SITES)
    assert hook_points.layers("heads") == (1, 3)
    assert hook_points.layers("attn_out") == (1, 3)
    assert hook_points.layers("mlp_out") == (0, 1, 2, 3)
    assert len(read(model, hook_points.places, input_ids)) == len(hook_points.places)
    with pytest.raises(SiteError) as caught:
        hook_points.place(Site(2, "attn_out"))
    assert str(caught.value) == "Lfm2ForCausalLM has no attn_out at layer 2"
    assert caught.value.hint == "it has attn_out at 1,3"


def test_experts_that_flatten_to_rows_are_no_site(input_ids: Tensor) -> None:
    config = transformers.Llama4TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=D_MODEL,
        intermediate_size=48,
        intermediate_size_mlp=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=4,
        pad_token_id=0,
    )
    model = randomised(transformers.Llama4ForCausalLM, config)
    hook_points = hook_map(model)
    assert stream_sites(hook_points) == ["resid_pre", "attn_out", "resid_post"]
    for site, tensor in read(model, hook_points.places, input_ids).items():
        assert tensor.shape == (*input_ids.shape, hook_points.width(site.name))


def test_attention_that_the_block_scales_is_no_site(input_ids: Tensor) -> None:
    config = transformers.FalconH1Config(
        vocab_size=VOCABULARY,
        hidden_size=D_MODEL,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        mamba_d_ssm=64,
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_d_state=8,
        mamba_chunk_size=8,
        attention_out_multiplier=0.7,
        pad_token_id=0,
    )
    model = randomised(transformers.FalconH1ForCausalLM, config)
    hook_points = hook_map(model)
    assert stream_sites(hook_points) == ["resid_pre", "mlp_out", "resid_post"]
    assert len(read(model, hook_points.places, input_ids)) == len(hook_points.places)


def test_a_text_model_inside_another_is_found_where_it_is() -> None:
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": D_MODEL,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    image = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = transformers.Gemma3Config(text_config=text, vision_config=image)
    hook_points = hook_map(transformers.Gemma3ForConditionalGeneration(config))
    assert (hook_points.n_layers, hook_points.d_model) == (2, D_MODEL)
    assert hook_points.place(Site(1)) == HookPoint("model.language_model.layers.1", "output")


class MadeUpForCausalLM(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = transformers.PretrainedConfig(architectures=["MadeUpForCausalLM"])


def a_bert() -> torch.nn.Module:
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    return transformers.BertForMaskedLM(config)


def a_t5() -> torch.nn.Module:
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    )
    return transformers.T5ForConditionalGeneration(config)


def a_headless_llama() -> torch.nn.Module:
    return build("llama").get_submodule("model")


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (MadeUpForCausalLM, "MadeUpForCausalLM: TransformerLens has no adapter for it"),
        (lambda: torch.nn.Linear(2, 2), "Linear: TransformerLens has no adapter for it"),
        (a_bert, "BertForMaskedLM: it is not a single stack of blocks"),
        (a_t5, "T5ForConditionalGeneration: it is not a single stack of blocks"),
        (a_headless_llama, "it has no blocks at 'model.layers'"),
    ],
)
def test_a_model_that_cannot_be_mapped_is_refused(
    builder: Callable[[], torch.nn.Module], message: str
) -> None:
    with pytest.raises(ModelError, match="steer cannot place hooks in") as caught:
        hook_map(builder())
    assert message in str(caught.value)
    assert caught.value.hint


def test_the_manual_lists_every_place() -> None:
    lines = [f"| `{place.name}` | {place.help} |" for place in SITE_KINDS.values()]
    manual = Path(__file__).parents[1] / "docs" / "vectors.md"
    assert "\n".join(["| site | |", "|---|---|", *lines]) in manual.read_text()
    assert set(SITE_KINDS) == set(get_args(SiteName))
