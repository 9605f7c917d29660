"""The hook map of a model, from a cache on disk.

TransformerLens has the map (`steer.models.adapters`) but takes seconds to import, so maps are kept
in the user's cache folder, keyed by a hash of everything that they depend on.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import msgspec
import torch

from steer import __version__
from steer.base.errors import SteerError
from steer.base.files import cache_folder, read_cached, write_cached
from steer.base.strict_json import load_strict_json
from steer.models.hookmap import HookMap, HookPoint
from steer.vectors.parts import Parts
from steer.vectors.sites import Site, SiteName

_MAX_BYTES = 10_000_000
#: Changes whenever maps of the same model get other contents.
_FORMAT = 2


def hook_map(model: torch.nn.Module) -> HookMap:
    """The sites of a Hugging Face causal language model.

    Raises:
        ModelError: TransformerLens does not know the family, the family is not a single stack of
            blocks that generates text, or the modules are not where its map says.
    """
    file = cache_folder("hooks") / f"{_key(model)}.json"
    with suppress(SteerError, ValueError):  # a damaged entry is replaced
        data = read_cached(file, limit=_MAX_BYTES)
        cached = None if data is None else _decode(data)
        if cached is not None and _fits(cached, model):
            return cached
    from steer.models.adapters import read_map

    hooks = read_map(model)
    with suppress(SteerError):  # a cache that cannot be written only costs time
        write_cached(file, _encode(hooks))
    return hooks


def _fits(hooks: HookMap, model: torch.nn.Module) -> bool:
    """Whether each site of a cached map is a module of the model, in the right layer.

    A map with wrong layers would silently steer other layers than the user names.
    """
    modules = {name for name, _ in model.named_modules()}
    outside = {hooks.embed, hooks.final_norm, hooks.unembed} - {None}
    return outside <= modules and all(
        0 <= site.layer < hooks.n_layers
        and place.module in modules
        and _layer_of(place.module) == site.layer
        for site, place in hooks.places.items()
    )


def _layer_of(module: str) -> int | None:
    """The layer that a module is in: the first number in its path, as in `model.layers.3.mlp`."""
    return next((int(part) for part in module.split(".") if part.isdecimal()), None)


def _key(model: Any) -> str:
    """A hash of everything that a map depends on: code, class, configuration and modules."""
    config = model.config.to_dict() if hasattr(model, "config") else {}
    settings = {name: value for name, value in config.items() if not name.startswith("_")}
    parts = [
        [_FORMAT, __version__, version("transformer-lens"), version("transformers")],
        type(model).__qualname__,
        settings,
        [name for name, _ in model.named_modules()],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _encode(hooks: HookMap) -> bytes:
    places = [(site, place) for site, place in hooks.places.items()]
    fields = (hooks.architecture, hooks.n_layers, hooks.d_model)
    outside = (hooks.embed, hooks.final_norm, hooks.unembed)
    return msgspec.json.encode((*fields, places, *outside, dict(hooks.parts)))


def _decode(data: bytes) -> HookMap:
    path = str | None
    parts_by_site = dict[SiteName, Parts]
    row = tuple[str, int, int, list[tuple[Site, HookPoint]], path, path, path, parts_by_site]
    raw = load_strict_json(data.decode(), "a hook map")
    architecture, n_layers, d_model, places, *rest = msgspec.convert(raw, row)
    return HookMap(architecture, n_layers, d_model, dict(places), *rest)
