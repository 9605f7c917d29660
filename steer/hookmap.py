"""Where each site of a model is: which side of which module of the Hugging Face model.

TransformerLens knows (`steer.adapters`), but takes seconds to import; so a map is kept in the
user's cache folder, under a hash of all that it depends on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal

import msgspec
import torch

from steer import __version__
from steer.errors import SiteError, SteerError
from steer.files import cache_folder, write_atomic
from steer.sites import SITE_NAMES, Site, SiteName, format_layers, listed

Side = Literal["input", "output"]


@dataclass(frozen=True, slots=True)
class Place:
    """One side of one module: `input` is its first argument, `output` what it returns.

    Either is [batch, positions, d_model]; an output may be the first of a tuple or list.
    """

    module: str
    side: Side


@dataclass(frozen=True)
class HookMap:
    """Where the sites of one model are. `embed`, `final_norm` and `unembed` are module paths."""

    architecture: str
    n_layers: int
    d_model: int
    places: Mapping[Site, Place] = field(repr=False)
    embed: str | None = None
    final_norm: str | None = None
    unembed: str | None = None

    @property
    def sites(self) -> tuple[SiteName, ...]:
        """The sites that this model has, at one layer at least."""
        return tuple(name for name in SITE_NAMES if self.layers(name))

    def layers(self, name: SiteName) -> tuple[int, ...]:
        """The layers that have the site `name`: all, or none, or in hybrid models some."""
        return tuple(layer for layer in range(self.n_layers) if Site(layer, name) in self.places)

    def place(self, site: Site) -> Place:
        """The module to hook for `site`.

        Raises:
            SiteError: the model has no such layer, no such site, or not at this layer.
        """
        if site in self.places:
            return self.places[site]
        if site.layer >= self.n_layers:
            raise SiteError(
                f"{self.architecture} has no layer {site.layer}",
                hint=f"its layers are {format_layers(range(self.n_layers))}",
            )
        if layers := self.layers(site.name):
            raise SiteError(
                f"{self.architecture} has no {site.name} at layer {site.layer}",
                hint=f"it has {site.name} at {format_layers(layers)}",
            )
        raise SiteError(
            f"{self.architecture} has no {site.name}", hint=f"it has {listed(self.sites)}"
        )


def hook_map(model: torch.nn.Module) -> HookMap:
    """The sites of a Hugging Face causal language model.

    Raises:
        ModelError: TransformerLens does not know the family, the family is not a single stack of
            blocks that generates text, or the modules are not where its map says.
    """
    file = cache_folder("hooks") / f"{_key(model)}.json"
    with suppress(OSError, ValueError):  # not there, or not whole: it is made anew
        return _decode(file.read_bytes())
    from steer.adapters import read_map

    found = read_map(model)
    with suppress(OSError, SteerError):  # a cache that cannot be written costs time, no more
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, _encode(found), force=True)
    return found


def _key(model: Any) -> str:
    """A hash of all that a map depends on: code, class, configuration and modules."""
    config = model.config.to_dict() if hasattr(model, "config") else {}
    told = {name: value for name, value in config.items() if not name.startswith("_")}
    parts = [
        [__version__, version("transformer-lens"), version("transformers")],
        type(model).__qualname__,
        told,
        [name for name, _ in model.named_modules()],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _encode(found: HookMap) -> bytes:
    places = [(site, place) for site, place in found.places.items()]
    fields = (found.architecture, found.n_layers, found.d_model)
    outside = (found.embed, found.final_norm, found.unembed)
    return msgspec.json.encode((*fields, places, *outside))


def _decode(data: bytes) -> HookMap:
    path = str | None
    row = tuple[str, int, int, list[tuple[Site, Place]], path, path, path]
    architecture, n_layers, d_model, places, *outside = msgspec.json.decode(data, type=row)
    return HookMap(architecture, n_layers, d_model, dict(places), *outside)
