"""The hook map: for each site, the module of the Hugging Face model to hook, and which side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from steer.base.errors import SiteError
from steer.vectors.parts import Parts
from steer.vectors.sites import SITE_NAMES, Site, SiteName, format_layers, listed

Side = Literal["input", "output", "linear"]


@dataclass(frozen=True, slots=True)
class HookPoint:
    """One side of one module: `input` is its first argument, `output` what it returns, `linear` the
    product of its input and its own weight, inside its forward.

    Each is [batch, positions, width]; an output may be the first of a tuple or list, and a product
    may have the positions of all rows in one dimension.
    """

    module: str
    side: Side


def block_of(module: str) -> str:
    """The path of the block that a module is in: up to the first number, as in `model.layers.3`."""
    steps = module.split(".")
    number = next(index for index, step in enumerate(steps) if step.isdecimal())
    return ".".join(steps[: number + 1])


@dataclass(frozen=True)
class HookMap:
    """The hook points of one model. `embed`, `final_norm` and `unembed` are module paths.

    parts: the heads of `heads`, and the experts of `router`, where the model has them.
    """

    architecture: str
    n_layers: int
    d_model: int
    places: Mapping[Site, HookPoint] = field(repr=False)
    embed: str | None = None
    final_norm: str | None = None
    unembed: str | None = None
    parts: Mapping[SiteName, Parts] = field(default_factory=dict)

    def width(self, name: SiteName) -> int:
        """The number of numbers in an activation of the site."""
        return self.parts[name].total if name in self.parts else self.d_model

    @property
    def sites(self) -> tuple[SiteName, ...]:
        """The site names that this model has, in at least one layer."""
        return tuple(name for name in SITE_NAMES if self.layers(name))

    def layers(self, name: SiteName) -> tuple[int, ...]:
        """The layers that have the site `name`: all, none, or in hybrid models some."""
        return tuple(layer for layer in range(self.n_layers) if Site(layer, name) in self.places)

    def place(self, site: Site) -> HookPoint:
        """The module to hook for `site`.

        Raises:
            SiteError: the model has no such layer, or no such site at this layer.
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
