"""Sites: where in a transformer activations are read and written.

The names are TransformerLens's. `resid_pre` of layer L+1 and `resid_post` of layer L are the same
tensor; the canonical form is `resid_post`, so that two files about one site agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from steer.base.errors import SiteError, UsageError
from steer.base.text import listed as listed

SiteName = Literal["resid_pre", "heads", "attn_out", "router", "mlp_out", "resid_post"]
#: What writes to the residual stream.
Part = Literal["embedding", "attention", "mlp"]


@dataclass(frozen=True, slots=True)
class SiteKind:
    """A kind of site: an activation that every block has.

    help: one line. writer: the part whose weights an edit here can be baked into, if any. modules:
    names of the module with this output in Hugging Face models; "" is the block itself. part: what
    the parts of its activations are called; "" if they are in the residual stream's space, with its
    width. A forward pass reaches the kinds in the order of `SITE_KINDS`.
    """

    name: SiteName
    help: str
    writer: Part | None
    modules: tuple[str, ...] = ()
    part: str = ""


SITE_KINDS: dict[SiteName, SiteKind] = {
    kind.name: kind
    for kind in (
        SiteKind("resid_pre", "the residual stream before a layer", "embedding"),
        SiteKind("heads", "the outputs of a layer's attention heads", None, part="head"),
        SiteKind(
            "attn_out",
            "what a layer's attention adds",
            "attention",
            ("self_attn", "attn", "attention", "self_attention"),
        ),
        SiteKind("router", "the logits by which a layer chooses experts", None, part="expert"),
        SiteKind("mlp_out", "what a layer's MLP adds", "mlp", ("mlp", "feed_forward", "ffn")),
        # Nothing is between what the MLP writes and the end of the layer.
        SiteKind("resid_post", "the residual stream after a layer", "mlp", ("",)),
    )
}
SITE_NAMES: tuple[SiteName, ...] = tuple(SITE_KINDS)
#: Those in the space of the residual stream.
STREAM_SITES = tuple(kind.name for kind in SITE_KINDS.values() if not kind.part)
#: Where a learned token stands: in the prompt, before the first layer.
EMBEDDING: Literal["embedding"] = "embedding"
#: Where the numbers of a vector file belong.
VectorSite = SiteName | Literal["embedding"]
_MOST_DIGITS = 9


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """One site: a layer (block index from 0) and the name of an activation in it."""

    layer: int
    name: SiteName = "resid_post"

    def __post_init__(self) -> None:
        if self.layer < 0:
            raise SiteError(f"layer {self.layer} is negative", hint="layers count from 0")
        if self.name not in SITE_NAMES:
            raise SiteError(f"{self.name!r} is not a site", hint=f"use one of {listed(SITE_NAMES)}")

    @property
    def hook_name(self) -> str:
        """TransformerLens's name, such as `blocks.3.hook_resid_post`."""
        return f"blocks.{self.layer}.hook_{self.name}"

    @property
    def canonical(self) -> Site:
        """The same tensor as `resid_post` of the block before, if there is one."""
        if self.name == "resid_pre" and self.layer > 0:
            return Site(self.layer - 1, "resid_post")
        return self

    @property
    def depth(self) -> tuple[int, int]:
        """A key that sorts sites in the order of a forward, for sequential blocks."""
        site = self.canonical
        if site.name == "resid_pre":
            return (0, -1)
        return site.layer, SITE_NAMES.index(site.name)

    def __str__(self) -> str:
        return f"{self.name} {self.layer}"


def site_name(text: str) -> SiteName:
    """`text` as a site name.

    Raises:
        UsageError: it is not one of `SITE_NAMES`.
    """
    if text not in SITE_NAMES:
        raise UsageError(f"{text!r} is not a site", hint=f"use one of {listed(SITE_NAMES)}")
    return text


def parse_layers(text: str) -> tuple[int, ...]:
    """Layers from `3`, `2,5`, `4-7` or a mixture, sorted and without repeats.

    Raises:
        UsageError: the text is none of these, or a range runs backwards.
    """
    layers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(f"{text!r} is not a list of layers", hint="write 3, 2,5 or 4-7")
        if max(len(first), len(last)) > _MOST_DIGITS:
            raise UsageError(f"layer {part.strip()[:20]}... is more than any model has")
        start, stop = int(first), int(last or first)
        if stop < start:
            raise UsageError(f"layers {part.strip()!r} run backwards", hint=f"write {stop}-{start}")
        if stop >= 10_000:
            raise UsageError(f"layer {stop} is more than any model has")
        layers.update(range(start, stop + 1))
    return tuple(sorted(layers))


def format_layers(layers: Iterable[int]) -> str:
    """The shortest text that `parse_layers` reads back: `0-3,7`."""
    runs: list[list[int]] = []
    for layer in sorted(set(layers)):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
