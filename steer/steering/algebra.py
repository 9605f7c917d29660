"""Combine and compare vectors. numpy only: no model is needed.

A combination is, at each layer that all parts have,

    v = sum_i c_i v_i        (`mean`: divided by the number of parts)
    span: h - Q Q^T h        where the columns of Q span the parts (k-direction ablation)
    v <- v - Q Q^T v         where the columns of Q span the vectors that v is made orthogonal to

Steering is addition, so adding v has the same effect as adding all parts (task arithmetic: Ilharco
et al. 2022, arXiv 2212.04089; sums of steering vectors: Subramani et al. 2022, arXiv 2205.05124).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import msgspec
import numpy as np
from numpy.typing import NDArray

from steer.base.errors import VectorError
from steer.contrasts.overlap import merged
from steer.fitting.fitting import rounded
from steer.steering.projection import NOTHING, span
from steer.steering.steers import Steer
from steer.vectors.metadata import LayerStatistics, Metadata, Recommendation
from steer.vectors.provenance import Combination, CombineOp, ContrastSummary, Method, Part, Read
from steer.vectors.sites import listed
from steer.vectors.vector import SteeringVector

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Similarity:
    """Cosines of two vectors, given by index, at the layers they share; None where one is zero."""

    first: int
    second: int
    cosines: Mapping[int, float | None]


def combine(
    parts: Sequence[Steer],
    *,
    name: str,
    op: CombineOp = "sum",
    orthogonal_to: Sequence[SteeringVector] = (),
    description: str = "",
    license: str = "",
) -> SteeringVector:
    """One vector with the effect of all `parts` together, at the layers that all of them have.

    The numbers do not depend on the order of the parts; the recommended layers are those of the
    first. A licence that all parts share is kept unless another is given.

    Raises:
        VectorError: the parts differ in model or site, have no layer in common, include a low-rank
            edit, or cancel at some layer.
    """
    vectors = [*(part.vector for part in parts), *orthogonal_to]
    layers = _shared([part.layers for part in parts] + [v.metadata.layers for v in orthogonal_to])
    reasons = obstacles(vectors)
    if not reasons and not layers:
        reasons = ["the requested layers have none in common"]
    if reasons:
        raise VectorError(
            f"{_named(vectors)} cannot be combined: {'; '.join(reasons)}",
            hint="`steer compare` shows them side by side",
        )
    rows = (
        [np.zeros(vectors[0].metadata.width)] * len(layers)
        if op == "span"
        else [_combined(parts, layer, op, orthogonal_to) for layer in layers]
    )
    combination = Combination(
        op=op,
        parts=tuple(part_of(part) for part in parts),
        orthogonal_to=tuple(Part(name=v.name, sha256=v.sha256) for v in orthogonal_to),
    )
    directions = np.array(rows, dtype=np.float32)
    metadata = _metadata(parts, layers, directions, combination)
    licenses = {part.vector.metadata.license for part in parts}
    shared_license = licenses.pop() if len(licenses) == 1 else ""
    metadata = msgspec.structs.replace(
        metadata, name=name, description=description, license=license or shared_license
    )
    if op == "span":
        return _ablation_of(parts, metadata, orthogonal_to)
    return SteeringVector(metadata, directions)


def _ablation_of(
    parts: Sequence[Steer], metadata: Metadata, orthogonal_to: Sequence[SteeringVector]
) -> SteeringVector:
    """The low-rank edit h - Q Q^T h that removes all directions of the parts, Q [d_model, k].

    Its file recommends to ablate; to add it once does the same.
    """
    bases = []
    for layer in metadata.layers:
        others = np.array([each.direction(layer) for each in orthogonal_to], dtype=np.float64)
        rows = [part.vector.direction(layer).astype(np.float64) for part in parts]
        bases.append(span(np.array([orthogonalised(row, others) for row in rows])))
    rank = max(map(len, bases))
    if not rank:
        raise VectorError(f"{_named([part.vector for part in parts])}: nothing is left")
    down = np.stack([np.pad(basis, ((0, rank - len(basis)), (0, 0))) for basis in bases])
    statistics = tuple(
        # It removes at most the activation itself.
        msgspec.structs.replace(row, norm=row.resid_norm or 1.0)
        for row in metadata.statistics
    )
    recommended = msgspec.structs.replace(
        metadata.recommended, op="ablate", coefficient=1.0, unit="vector", scope=None
    )
    metadata = msgspec.structs.replace(
        metadata, rank=rank, statistics=statistics, recommended=recommended
    )
    stored = down.astype(np.float32)
    zeros = np.zeros((len(bases), metadata.width), np.float32)
    return SteeringVector(metadata, zeros, stored, np.ascontiguousarray(-stored.swapaxes(1, 2)))


def obstacles(vectors: Sequence[SteeringVector]) -> list[str]:
    """The reasons why these vectors cannot be combined; empty if they can."""
    reasons = []
    sites = [vector.metadata.site for vector in vectors]
    models = [model_of(vector.metadata) for vector in vectors]
    for kind, values in (("sites", sites), ("models", models)):
        if len(set(values)) > 1:
            each = (f"{vector.name} {value}" for vector, value in zip(vectors, values, strict=True))
            reasons.append(f"their {kind} differ ({', '.join(each)})")
    if tokens := [vector.name for vector in vectors if vector.metadata.tokens]:
        reasons.append(f"learned tokens, which stand in a prompt: {listed(tokens)}")
    if edits := [vector.name for vector in vectors if vector.metadata.rank]:
        reasons.append(f"low-rank edits, not plain vectors: {listed(edits)}")
    if not shared_layers(vectors):
        reasons.append("they have no layer in common")
    return reasons


def shared_layers(vectors: Sequence[SteeringVector]) -> tuple[int, ...]:
    """The layers that all of the vectors have."""
    return _shared([vector.metadata.layers for vector in vectors])


def likenesses(vectors: Sequence[SteeringVector]) -> list[Similarity]:
    """Cosines of all pairs of vectors, at the layers that both have.

    cos = v.w / (|v| |w|), in float64. Vectors of different widths have no layer in common. For a
    low-rank edit: of its constant part.
    """
    return [
        Similarity(first, second, _cosines(vectors[first], vectors[second]))
        for first, second in combinations(range(len(vectors)), 2)
    ]


def _cosines(first: SteeringVector, second: SteeringVector) -> dict[int, float | None]:
    if first.metadata.space != second.metadata.space:
        return {}
    if first.metadata.tokens or second.metadata.tokens:
        return {}
    cosines: dict[int, float | None] = {}
    for layer in shared_layers([first, second]):
        v, w = (vector.direction(layer).astype(np.float64) for vector in (first, second))
        lengths = float(np.linalg.norm(v) * np.linalg.norm(w))
        cosines[layer] = float(np.clip(v @ w / lengths, -1, 1)) if lengths else None
    return cosines


def _combined(
    parts: Sequence[Steer], layer: int, op: CombineOp, orthogonal_to: Sequence[SteeringVector]
) -> Array:
    """The vector of one layer, float64 [d_model]."""
    terms = np.array([part.delta(layer) for part in parts], dtype=np.float64)
    # Numbers are added in rising order, so that the order of the parts does not matter.
    total = np.sort(terms, axis=0).sum(axis=0)
    if op == "mean":
        total = total / len(parts)
    others = np.array([vector.direction(layer) for vector in orthogonal_to], dtype=np.float64)
    result = orthogonalised(total, others)
    if np.linalg.norm(result) <= NOTHING * np.linalg.norm(terms, axis=1).max():
        raise VectorError(
            f"{_named([part.vector for part in parts])} at layer {layer}: nothing is left",
            hint="use other coefficients, or only some layers, such as NAME:1@2-3",
        )
    return result


def orthogonalised(vector: Array, others: Array) -> Array:
    """`vector` [d_model] without its projection on the span of `others` [n, d_model].

    v - Q Q^T v, the residual of the least squares of v on the others. Done twice, against rounding
    (Giraud et al. 2005, "twice is enough").
    """
    if not len(others):
        return vector
    basis = span(others)
    for _ in range(2):
        vector = vector - basis.T @ (basis @ vector)
    return np.asarray(vector)


def _metadata(
    parts: Sequence[Steer],
    layers: tuple[int, ...],
    directions: NDArray[np.float32],
    how: Combination,
) -> Metadata:
    first = parts[0].vector.metadata
    read = {part.vector.metadata.read.positions for part in parts}
    statistics = tuple(
        LayerStatistics(
            layer=layer,
            norm=rounded(float(np.linalg.norm(row.astype(np.float64)))),
            resid_norm=mean_length(part.vector.metadata.at(layer).resid_norm for part in parts),
        )
        for layer, row in zip(layers, directions, strict=True)
    )
    started = tuple(layer for layer in first.recommended.layers if layer in layers)
    scopes = {part.vector.metadata.recommended.scope for part in parts}
    return Metadata(
        name=first.name,
        model=first.model,
        site=first.site,
        layers=layers,
        method=Method(name="combine", combination=how),
        read=Read(positions=read.pop() if len(read) == 1 else "mixed"),
        contrast=contrast_of(how, parts),
        statistics=statistics,
        recommended=Recommendation(
            layers=started or layers,
            # A recommended multiple of the vector holds for a sum too.
            coefficient=first.recommended.coefficient if _adds(first.recommended) else 1.0,
            scope=first.recommended.scope if len(scopes) == 1 else None,
            evidence="combined; no sweep was run",
        ),
    )


def _adds(recommended: Recommendation) -> bool:
    """Whether a multiple of the vector itself is recommended, to be added."""
    return recommended.op_name == "add" and recommended.unit == "vector"


def contrast_of(how: Combination, parts: Sequence[Steer]) -> ContrastSummary:
    """The contrast summary of a combined vector."""
    return ContrastSummary(
        kind="vectors",
        n=len(how.parts),
        sha256=hashlib.sha256(msgspec.json.encode(how, order="sorted")).hexdigest(),
        items=merged([part.vector.metadata.contrast.items for part in parts]),
    )


def part_of(part: Steer) -> Part:
    """The record of one part of a combined vector."""
    return Part(
        name=part.vector.name,
        sha256=part.vector.sha256,
        coefficient=float(part.coefficient.value),
        unit=part.coefficient.unit,
    )


def _shared(layers: Sequence[Iterable[int]]) -> tuple[int, ...]:
    return tuple(sorted(set.intersection(*map(set, layers))))


def mean_length(lengths: Iterable[float | None]) -> float | None:
    """The mean length of activations; None if one of the lengths is unknown."""
    each = list(lengths)
    known = sorted(length for length in each if length is not None)
    return rounded(float(np.mean(known))) if len(known) == len(each) else None


def model_of(metadata: Metadata) -> str:
    """A description of the model to compare; the same weights may have several ids."""
    model = metadata.model
    if not model.bound:
        return f"not bound to a model, width {model.d_model}"
    return f"{model.architecture}, width {model.d_model}, weights {model.fingerprint}"


def _named(vectors: Sequence[SteeringVector]) -> str:
    return listed(vector.name for vector in vectors)
