"""Compare the concepts of a pack: cosines, a tree, and names for unknown vectors."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steer.base.errors import VectorError
from steer.base.page import html_page
from steer.steering.algebra import obstacles, shared_layers
from steer.vectors.vector import SteeringVector

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A concept near a vector. cosine: the mean over the layers that both have; negative for the
    concept's opposite."""

    name: str
    cosine: float

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "cosine": self.cosine}


@dataclass(frozen=True, slots=True)
class Geometry:
    """Cosines of vectors at one layer, float64 [n, n], and the order of a tree's leaves.

    tree: merges as (left, right, distance, size), clusters numbered as scipy's linkage does.
    """

    names: tuple[str, ...]
    layer: int
    cosines: Array
    order: tuple[int, ...]
    tree: tuple[tuple[int, int, float, int], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "names": list(self.names),
            "layer": self.layer,
            "cosines": self.cosines.tolist(),
            "order": list(self.order),
            "tree": [list(merge) for merge in self.tree],
        }

    def pairs(self, n: int) -> list[tuple[str, str, float]]:
        """The `n` nearest and the `n` most opposite pairs of names, each with its cosine."""
        size = range(len(self.names))
        pairs = sorted((float(self.cosines[i, j]), i, j) for i in size for j in size if i < j)
        chosen = dict.fromkeys([*reversed(pairs[-n:]), *pairs[:n]])
        return [(self.names[i], self.names[j], cosine) for cosine, i, j in chosen]

    def to_html(self, title: str = "concepts") -> str:
        """A page with the heat map of cosines and the tree; it needs no network."""
        return _page(self, title)

    def lines(self) -> list[str]:
        """The tree as text, one line per concept or merge, with the cosines."""
        children = {
            len(self.names) + i: (left, right, 1 - distance)
            for i, (left, right, distance, _) in enumerate(self.tree)
        }
        lines: list[str] = []
        stack: list[tuple[int, str, str]] = [(len(self.names) + len(self.tree) - 1, "", "")]
        while stack:
            node, prefix, branch = stack.pop()
            if node < len(self.names):
                lines.append(f"{prefix}{branch}{self.names[node]}")
                continue
            left, right, cosine = children[node]
            lines.append(f"{prefix}{branch}{cosine:+.2f}")
            below = prefix + ("│  " if branch == "├─ " else "   " if branch else "")
            stack.append((right, below, "└─ "))
            stack.append((left, below, "├─ "))
        return lines


def geometry(vectors: Sequence[SteeringVector], layer: int | None = None) -> Geometry:
    """Cosines and tree of vectors at a layer, by default the one that most of them recommend.

    The tree joins, at each step, the two clusters with the highest mean cosine (UPGMA).

    Raises:
        VectorError: there are fewer than two, or they cannot be compared.
    """
    if len(vectors) < 2:
        raise VectorError("a comparison needs two vectors", hint="name another")
    if reasons := obstacles(vectors):
        raise VectorError(f"the vectors cannot be compared: {'; '.join(reasons)}")
    shared = shared_layers(vectors)
    if layer is None:
        votes = [n for vector in vectors for n in vector.metadata.recommended.layers if n in shared]
        layer = max(sorted(set(votes)), key=votes.count) if votes else shared[len(shared) // 2]
    elif layer not in shared:
        raise VectorError(f"not all of the vectors have layer {layer}")
    units = _units(vectors, (layer,))[:, 0]
    cosines = np.clip(units @ units.T, -1, 1)
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    distances = 1 - cosines
    np.fill_diagonal(distances, 0)
    merges = linkage(squareform(distances, checks=False), method="average")
    tree = tuple((int(a), int(b), float(d), int(n)) for a, b, d, n in merges)
    order = tuple(int(leaf) for leaf in leaves_list(merges))
    return Geometry(tuple(v.name for v in vectors), layer, cosines, order, tree)


def nearest(
    vector: SteeringVector, concepts: Sequence[SteeringVector], n: int = 5
) -> tuple[list[Neighbour], float]:
    """The concepts with the largest cosines, positive or negative, to a vector, and the cosine that
    a random direction reaches.

    The vectors of one model share a large component; the mean of all concepts is subtracted first.

    Raises:
        VectorError: no concept can be compared with the vector.
    """
    alike = [concept for concept in concepts if not obstacles([vector, concept])]
    if not alike:
        raise VectorError(
            f"no concept of the pack can be compared with {vector.name!r}",
            hint="build the pack for the same model and site",
        )
    layers = shared_layers([vector, *alike])
    if not layers:
        raise VectorError(f"no layer is shared by {vector.name!r} and all concepts of the pack")
    known = _units(alike, layers)
    if len(alike) > 2:
        centre = known.mean(0)
        known = _normalised(known - centre)
        own = _normalised(_units([vector], layers) - centre)[0]
    else:
        own = _units([vector], layers)[0]
    cosines = np.einsum("nld,ld->nl", known, own).mean(1)
    order = np.argsort(-np.abs(cosines))[:n]
    return [Neighbour(alike[i].name, float(cosines[i])) for i in order], _chance(known)


def _chance(known: Array, n_random: int = 200) -> float:
    """The 95th percentile of a random direction's largest cosine with any of the concepts."""
    draws = np.random.default_rng(0).normal(size=(n_random, *known.shape[1:]))
    draws = _normalised(draws)
    cosines = np.abs(np.einsum("nld,rld->rnl", known, draws).mean(2)).max(1)
    return float(np.quantile(cosines, 0.95))


def _units(vectors: Sequence[SteeringVector], layers: Sequence[int]) -> Array:
    """Directions at length 1, float64 [vector, layer, d_model]."""
    rows = [[vector.direction(layer).astype(np.float64) for layer in layers] for vector in vectors]
    return _normalised(np.array(rows))


def _normalised(rows: Array) -> Array:
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1))


#: The space for names beside the heat map, in pixels.
_MARGIN = 130


def _page(geometry: Geometry, title: str) -> str:
    """A page with the heat map of cosines, in the order of the tree, and the tree."""
    escape = html.escape
    n = len(geometry.order)
    size = max(4, min(18, 1200 // n))
    shapes = []
    for y, i in enumerate(geometry.order):
        name = escape(geometry.names[i])
        offset = f"{_MARGIN + y * size + size * 0.8:.0f}"
        shapes.append(
            f'<text x="{_MARGIN - 4}" y="{offset}" text-anchor="end">{name}</text>'
            f'<text transform="translate({offset},{_MARGIN - 4}) rotate(-90)">{name}</text>'
        )
        for x, j in enumerate(geometry.order):
            cosine = float(geometry.cosines[i, j])
            colour = f"rgb({_shade(-cosine)},{_shade(abs(cosine))},{_shade(cosine)})"
            shapes.append(
                f'<rect x="{_MARGIN + x * size}" y="{_MARGIN + y * size}" width="{size}"'
                f' height="{size}" fill="{colour}"><title>{name} · {escape(geometry.names[j])}'
                f" {cosine:+.2f}</title></rect>"
            )
    width = _MARGIN + n * size
    tree = escape("\n".join(geometry.lines()))
    style = f"""
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem }}
svg text {{ font-size: {max(4, size - 2)}px; fill: currentColor }}
div {{ overflow: auto }}
"""
    body = f"""<h1>{escape(title)}</h1>
<p>Cosines of {n} concepts at layer {geometry.layer}: red is alike, blue opposite.</p>
<div><svg width="{width}" height="{width}" role="img" aria-label="heat map of cosines">
{"".join(shapes)}</svg></div>
<h2>Tree</h2>
<pre>{tree}</pre>"""
    return html_page(title, style, body)


def _shade(value: float) -> int:
    """The intensity of a colour channel, from 255 at 0 or below to 0 at 1."""
    return round(255 * (1 - max(0.0, min(1.0, value))))
