"""Combine several steers into one vector file with the same effect. numpy only.

Steers i that add at one site, unconditionally and with coefficients c_i, all read the same
activation h, so their sum is again one vector v and one low-rank edit U D:

    h + sum_i c_i (v_i + U_i D_i h)    =    h + v + U (D h)
    v = sum_i c_i v_i,   U = [c_1 U_1 ... c_n U_n],   D = [D_1; ...; D_n]

The ranks add up. A file has one rank, so layers of lower rank are padded with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from steer.base.errors import VectorError
from steer.fitting.fitting import rounded
from steer.steering.algebra import contrast_of, mean_length, model_of, part_of
from steer.steering.operation import ADD
from steer.steering.scope import CONSTANT
from steer.steering.steers import Steer
from steer.vectors.metadata import LayerStatistics, Metadata, Recommendation
from steer.vectors.provenance import Combination, Method, Read
from steer.vectors.sites import SiteName, listed
from steer.vectors.vector import Directions, SteeringVector

#: The steers that act at one layer of the result, each with the layer of its own file that it uses.
_AtLayer = list[tuple[Steer, int]]


def collapse(
    steers: Sequence[Steer], *, name: str, description: str = "", license: str = ""
) -> SteeringVector:
    """One vector, or low-rank edit, with the same effect as all of `steers` together.

    The result has every layer at which any steer acts, and recommends all of them. It acts on all
    positions or on the response, since a file can express no other scope. Where `license` is empty
    and all steers share a licence, the result has that licence.

    Raises:
        VectorError: there are no steers; they belong to different models, act at different kinds
            of site or have different scopes; one of them is not an unconditional `add`; or they
            cancel.
    """
    _check(steers)
    site, by_layer = _by_layer(steers)
    layers = tuple(sorted(by_layer))
    directions = np.stack([_direction(by_layer[layer]) for layer in layers])
    factors = [_factors(by_layer[layer]) for layer in layers]
    rank = max(len(down) for down, _ in factors)
    if not rank and not directions.any():
        raise VectorError(f"nothing is left of {_named(steers)}: they cancel")
    combination = Combination(op="sum", parts=tuple(part_of(steer) for steer in steers))
    licenses = {steer.vector.metadata.license for steer in steers}
    metadata = Metadata(
        name=name,
        description=description,
        license=license or (licenses.pop() if len(licenses) == 1 else ""),
        model=steers[0].vector.metadata.model,
        site=site,
        parts=steers[0].vector.metadata.parts,
        layers=layers,
        rank=rank,
        method=Method(name="combine", combination=combination),
        read=Read(positions=_positions(steers)),
        contrast=contrast_of(combination, steers),
        statistics=tuple(
            _statistics(layer, by_layer[layer], direction)
            for layer, direction in zip(layers, directions, strict=True)
        ),
        recommended=Recommendation(
            layers=layers, coefficient=1.0, evidence="combined; no sweep was run"
        ),
    )
    return SteeringVector(metadata, directions, *_padded(factors, rank))


def _check(steers: Sequence[Steer]) -> None:
    if not steers:
        raise VectorError("there is nothing to combine")
    for steer in steers:
        if reason := _not_constant(steer):
            raise VectorError(
                f"{steer} {reason}, so no vector does the same",
                hint="leave it out, and apply it beside the others combined",
            )
    reasons = []
    models = {model_of(steer.vector.metadata) for steer in steers}
    if len(models) > 1:
        reasons.append(f"their models differ ({listed(sorted(models))})")
    scopes = {str(steer.scope) for steer in steers}
    if len(scopes) > 1:
        reasons.append(f"they act on different parts of the text ({listed(sorted(scopes))})")
    elif not scopes <= {"all", "response"}:
        reasons.append(f"a vector's file cannot say that it acts on {scopes.pop()}")
    if reasons:
        raise VectorError(f"{_named(steers)} cannot be one vector: {'; '.join(reasons)}")


def _not_constant(steer: Steer) -> str:
    """Why a steer is not an unconditional `add`; empty if it is."""
    if steer.op != ADD:
        return "depends on the activations" if steer.op.op.adds else "does not add"
    if steer.schedule != CONSTANT:
        return "changes from token to token"
    return "" if steer.gate is None else "waits for a gate"


def _by_layer(steers: Sequence[Steer]) -> tuple[SiteName, dict[int, _AtLayer]]:
    """The site at which all steers act, and the steers by layer.

    Raises:
        VectorError: they act at different sites.
    """
    names = {steer.vector.metadata.activation_site for steer in steers}
    by_layer: dict[int, _AtLayer] = {}
    if len(names) > 1:
        # `resid_pre` of one layer and `resid_post` of the layer below are the same tensor.
        names = {site.name for steer in steers for site in steer.sites()}
        if len(names) > 1:
            raise VectorError(
                f"{_named(steers)} cannot be one vector:"
                f" their sites differ ({listed(sorted(names))})"
            )
        for steer in steers:
            for site, layer in steer.sites().items():
                by_layer.setdefault(site.layer, []).append((steer, layer))
        return names.pop(), by_layer
    for steer in steers:
        for layer in steer.layers:
            by_layer.setdefault(layer, []).append((steer, layer))
    return names.pop(), by_layer


def _direction(at_layer: _AtLayer) -> Directions:
    deltas = [steer.delta(layer).astype(np.float64) for steer, layer in at_layer]
    return np.asarray(np.sum(deltas, axis=0), dtype=np.float32)


def _factors(at_layer: _AtLayer) -> tuple[Directions, Directions]:
    """`down` [k, d_model] and `up` [d_model, k] of all low-rank edits; k may be 0."""
    width = at_layer[0][0].vector.metadata.width
    # Grouped by vector, so that opposite coefficients of the same vector cancel exactly.
    factors: dict[tuple[str, int], float] = {}
    vectors: dict[str, SteeringVector] = {}
    for steer, layer in at_layer:
        digest = steer.vector.sha256
        vectors[digest] = steer.vector
        factors[digest, layer] = factors.get((digest, layer), 0.0) + steer.coefficient.value
    down, up = [np.zeros((0, width), np.float32)], [np.zeros((width, 0), np.float32)]
    for (digest, layer), factor in factors.items():
        pair = vectors[digest].low_rank(layer)
        if factor and pair is not None:
            down.append(pair[0])
            up.append(np.float32(factor) * pair[1])
    return np.concatenate(down), np.concatenate(up, axis=1)


def _padded(
    factors: Sequence[tuple[Directions, Directions]], rank: int
) -> tuple[Directions, Directions] | tuple[()]:
    """The factors of all layers, padded to one rank; empty where the rank is 0."""
    if not rank:
        return ()
    down = [np.pad(lower, ((0, rank - len(lower)), (0, 0))) for lower, _ in factors]
    up = [np.pad(upper, ((0, 0), (0, rank - upper.shape[1]))) for _, upper in factors]
    return np.stack(down), np.stack(up)


def _positions(steers: Sequence[Steer]) -> str:
    """The positions to store as read, which decide the scope that the result has by default."""
    if steers[0].scope.kind == "response":
        return "response"
    positions = {steer.vector.metadata.read.positions for steer in steers}
    return positions.pop() if len(positions) == 1 else "mixed"


def _statistics(layer: int, at_layer: _AtLayer, direction: Directions) -> LayerStatistics:
    sources = [(steer, steer.vector.metadata.at(source)) for steer, source in at_layer]
    norm = float(np.linalg.norm(direction.astype(np.float64)))
    if any(steer.vector.metadata.rank for steer, _ in sources):
        # What low-rank edits add depends on the text; this is an upper bound.
        norm = sum(
            abs(steer.coefficient.value)
            * (source.norm if steer.coefficient.unit == "vector" else source.resid_norm or 0.0)
            for steer, source in sources
        )
    resid_norm = mean_length(source.resid_norm for _, source in sources)
    return LayerStatistics(layer=layer, norm=rounded(norm), resid_norm=resid_norm)


def _named(steers: Sequence[Steer]) -> str:
    return listed(str(steer) for steer in steers)
