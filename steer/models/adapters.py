"""Read the sites of a Hugging Face model from TransformerLens's map of its family.

Only the map is used: the bridge itself never runs, and the model is never changed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_config_from_hf
from transformer_lens.model_bridge.sources._hf_format import determine_architecture_from_hf_config

from steer.base.errors import ModelError
from steer.models.hookmap import HookMap, HookPoint, Side
from steer.vectors.parts import Parts
from steer.vectors.sites import STREAM_SITES, Site, SiteName

_SIDES: dict[str, Side] = {"hook_in": "input", "hook_out": "output"}

#: Settings that give the number of experts, and the names of routers.
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_ROUTERS = ("gate", "router", "router.layer")

# Sites whose module does not output what is added to the residual stream.
_NOT_ADDED: dict[str, tuple[SiteName, ...]] = {
    "OPTForCausalLM": ("mlp_out",),  # rows [batch * positions, d_model]
    "Llama4ForCausalLM": ("mlp_out",),  # rows, in the layers with experts
    "Llama4ForConditionalGeneration": ("mlp_out",),
    "FalconH1ForCausalLM": ("attn_out",),  # multiplied by a constant outside the module
}


def read_map(model: torch.nn.Module) -> HookMap:
    """Find the sites of a Hugging Face causal language model.

    Raises:
        ModelError: TransformerLens does not know the family, the family is not a single stack of
            blocks that generates text, or the modules are not where its map says.
    """
    architecture = _architecture(model)
    adapter = _adapter(model, architecture)
    mapping: Mapping[str, Any] = adapter.component_mapping or {}
    blocks = mapping.get("blocks")  # others have encoder_blocks and decoder_blocks, or a core
    if blocks is None or not adapter.supports_generation:
        raise _refusal(architecture, "it is not a single stack of blocks that generates text")
    if not blocks.hook_out_is_single_residual_stream:
        raise _refusal(architecture, "its blocks pass on several residual streams")
    stack = _submodule(model, blocks.name)
    if not isinstance(stack, torch.nn.ModuleList | torch.nn.Sequential) or not len(stack):
        raise _refusal(architecture, f"it has no blocks at {blocks.name!r}, where they should be")

    places: dict[Site, HookPoint] = {}
    inside = _InnerSites(model)
    for layer, block in enumerate(stack):
        # Some blocks choose their aliases only once they are bound to a layer.
        bound = copy.deepcopy(blocks)
        bound.set_original_component(block)
        for name, place in _places(model, bound, f"{blocks.name}.{layer}"):
            if name not in _NOT_ADDED.get(architecture, ()):
                places[Site(layer, name)] = place
        inside.look(layer, bound, f"{blocks.name}.{layer}")

    outside = (_path(model, mapping.get(name)) for name in ("embed", "ln_final", "unembed"))
    places |= inside.places
    width = int(adapter.cfg.d_model)
    embed, final_norm, unembed = outside
    hooks = HookMap(
        architecture, len(stack), width, places, embed, final_norm, unembed, inside.parts
    )
    if len(hooks.layers("resid_post")) < hooks.n_layers:
        raise _refusal(architecture, "its map does not say where the residual stream is")
    return hooks


class _InnerSites:
    """Finds the sites inside of blocks: attention heads, and the logits of routers."""

    def __init__(self, model: torch.nn.Module) -> None:
        config: Any = model.config
        self._model = model
        self._config = config.get_text_config() if hasattr(config, "get_text_config") else config
        self.places: dict[Site, HookPoint] = {}
        self.parts: dict[SiteName, Parts] = {}

    def look(self, layer: int, bound: Any, path: str) -> None:
        """Add the sites of the block at `path`. bound: TransformerLens's component for it."""
        place = _resolve(bound, "attn.o.hook_in", path)
        module = None if place is None else _submodule(self._model, place.module)
        n_heads = getattr(self._config, "num_attention_heads", None)
        if place is not None and module is not None and isinstance(n_heads, int):
            width = _input_width(module)
            if width and width % n_heads == 0:
                self._add(Site(layer, "heads"), place, Parts(n=n_heads, width=width // n_heads))
        counts = {getattr(self._config, name, None) for name in _EXPERTS}
        for name, inner in self._model.get_submodule(path).named_modules():
            weight = getattr(inner, "weight", None)
            if not name.endswith(_ROUTERS) or not isinstance(weight, torch.Tensor):
                continue
            if weight.ndim == 2 and weight.shape[0] > 1 and weight.shape[0] in counts:
                place = HookPoint(f"{path}.{name}", "linear")
                self._add(Site(layer, "router"), place, Parts(n=weight.shape[0], width=1))

    def _add(self, site: Site, place: HookPoint, parts: Parts) -> None:
        # A vector has one width: layers with others (in hybrids) are left out.
        if self.parts.setdefault(site.name, parts) == parts:
            self.places[site] = place


def _input_width(module: torch.nn.Module) -> int:
    """The width of a linear layer's input; 0 of anything else."""
    if isinstance(module, torch.nn.Linear):
        return module.in_features
    if type(module).__name__ == "Conv1D":  # GPT-2's: [in, out]
        return int(module.get_parameter("weight").shape[0])
    return 0


def _architecture(model: torch.nn.Module) -> str:
    """The name under which TransformerLens knows this model."""
    # The class is what runs; the configuration may name none, or a wrapper round it.
    name = type(model).__name__
    if name in SUPPORTED_ARCHITECTURES:
        return name
    config = getattr(model, "config", None)
    try:
        return str(determine_architecture_from_hf_config(config))
    except ValueError:
        named = (getattr(config, "architectures", None) or [name])[0]
        raise _refusal(named, "TransformerLens has no adapter for it") from None


def _adapter(model: torch.nn.Module, architecture: str) -> Any:
    """TransformerLens's adapter for the family, which holds the map and no weights."""
    config: Any = model.config
    try:
        settings = build_bridge_config_from_hf(config, architecture, architecture, torch.float32)
        known = SUPPORTED_ARCHITECTURES[architecture]
        # Adapters of models for images or sound require libraries that text does not need.
        for_text = type(known.__name__, (known,), {"required_libraries": []})
        return for_text(settings)
    except ImportError as error:
        raise ModelError(f"{architecture} needs another library", hint=str(error)) from error
    except ValueError as error:
        raise _refusal(architecture, str(error)) from error


def _places(model: torch.nn.Module, bound: Any, path: str) -> Iterator[tuple[SiteName, HookPoint]]:
    """The sites of the block at `path`. bound: TransformerLens's component for the block."""
    for name in STREAM_SITES:
        targets = bound.hook_aliases.get(f"hook_{name}") or []
        for target in [targets] if isinstance(targets, str) else targets:
            place = _resolve(bound, target, path)
            if place is not None and _submodule(model, place.module) is not None:
                yield name, place
                break


def _resolve(bound: Any, target: str, path: str) -> HookPoint | None:
    """Follow an alias such as `mlp.out.hook_out` down from the block at `path`."""
    *parts, hook = target.split(".")
    component, steps = bound, [path]
    for part in parts:
        component = component.submodules.get(part)
        if component is None:
            return None
        # A component without a name is only a grouping in TransformerLens, not a module.
        if component.name is not None:
            steps.append(component.name)
    if hook not in _SIDES or (parts and component.name is None):
        return None
    return HookPoint(".".join(steps), _SIDES[hook])


def _path(model: torch.nn.Module, component: Any) -> str | None:
    """The module path of a component outside the blocks; None if the model has none."""
    name = getattr(component, "name", None)
    return name if name and _submodule(model, name) is not None else None


def _submodule(model: torch.nn.Module, path: str) -> torch.nn.Module | None:
    """The module at `path`, if there is one."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _refusal(architecture: str, reason: str) -> ModelError:
    return ModelError(
        f"steer cannot place hooks in {architecture}: {reason}",
        hint="use a decoder-only language model, such as Llama, Qwen, Gemma or GPT-2",
    )
