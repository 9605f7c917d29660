"""Sites from tensor names such as `layer.3`, `model.layers.3` and `blocks.3.hook_mlp_out`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steer.base.errors import VectorError
from steer.formats.imported import ImportedVector, checked_directions, layer_number, shortened
from steer.vectors.sites import SITE_KINDS, STREAM_SITES, SiteName

Array = NDArray[Any]

SAME = "layer N is the output of block N, counted from 0"
_NUMBERED = re.compile(r"(?:layers?|direction|block)?[._]?([0-9]{1,5})")
#: TransformerLens's hook names.
_HOOK = re.compile(r"blocks\.([0-9]{1,5})\.(hook_[a-z_]+)")
#: A module of a Hugging Face model: the path of its blocks, the block, and a part of it.
_MODULE = re.compile(
    r"(?:[a-z_]+\.){0,4}(?:layers|h|blocks|block)\.([0-9]{1,5})(?:\.([a-z_]+))?", re.ASCII
)
_PARTS: dict[str, SiteName] = {
    module: place.name for place in SITE_KINDS.values() for module in place.modules
}


def site_of(name: str, subject: str) -> tuple[int, SiteName, str] | None:
    """The layer and site that a tensor's name gives, and the convention behind it; None if it gives
    none.

    Raises:
        VectorError: a hook or module that is not a site.
    """
    if match := _NUMBERED.fullmatch(name):
        return layer_number(match[1], subject), "resid_post", SAME
    if match := _HOOK.fullmatch(name):
        site = match[2].removeprefix("hook_")
        if site not in STREAM_SITES:
            raise VectorError(
                f"{subject}: steer has no site {match[2]!r}",
                hint=f"it has {', '.join(STREAM_SITES)}",
            )
        return layer_number(match[1], subject), site, "names are TransformerLens's hook points"
    if match := _MODULE.fullmatch(name):
        part = match[2] or ""
        if part not in _PARTS:
            raise VectorError(
                f"{subject}: steer has no site for the module {shortened(name)!r}",
                hint="steer has sites at the outputs of blocks, attention and MLP",
            )
        return (
            layer_number(match[1], subject),
            _PARTS[part],
            "names are module paths: a vector belongs at its module's output",
        )
    return None


def by_name(named: Mapping[str, Array], subject: str) -> ImportedVector:
    """One vector for each tensor, at the layer that its name gives.

    Raises:
        VectorError: a name without a layer, or names of several sites.
    """
    rows = []
    sites: set[SiteName] = set()
    conventions = set()
    for name, row in named.items():
        named_site = site_of(name, subject)
        if named_site is None:
            raise VectorError(
                f"{subject} has a tensor {shortened(name)!r}, which does not name a layer",
                hint="rename them layer.0, layer.1, ...; or choose one with --pick NAME --layer N",
            )
        layer, site, assumption = named_site
        rows.append((layer, np.squeeze(row) if isinstance(row, np.ndarray) else row))
        sites.add(site)
        conventions.add(assumption)
    if len(sites) > 1:
        raise VectorError(
            f"{subject} has vectors for {' and '.join(sorted(sites))}; a vector has one site",
            hint="choose one with --pick NAME --layer N",
        )
    return ImportedVector(
        checked_directions(rows, subject),
        convention="; ".join(sorted(conventions)),
        site=sites.pop() if sites else "resid_post",
    )
