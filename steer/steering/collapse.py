"""Many steers as one vector file that does what all of them do together. numpy only.

At each site, steers that always add, with coefficients c_i,

    h + sum_i c_i (v_i + U_i D_i h)    =    h + v + U (D h)
    v = sum_i c_i v_i,   U = [c_1 U_1 ... c_n U_n],   D = [D_1; ...; D_n]

all act on the same h, so low-rank edits stand side by side and their ranks add up. A file has one
rank: layers with less are filled up with zeros.
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
from steer.vectors.metadata import LayerStatistics, Metadata, Recommended
from steer.vectors.provenance import Combination, Method, Read
from steer.vectors.sites import SiteName, listed
from steer.vectors.vector import Directions, SteeringVector

#: Steers that meet at a layer of the result, each with the layer whose numbers it takes there.
_Meeting = list[tuple[Steer, int]]


def collapse(
    steers: Sequence[Steer], *, name: str, description: str = "", license: str = ""
) -> SteeringVector:
    """One vector, or low-rank edit, that applied once does what `steers` do together.

    A file says what to add, and of when only that it is everywhere or from the response on.

    It has every layer that one of them acts on, and recommends them all, since together they are
    what was meant. A licence that all share is kept where none is given.

    Raises:
        VectorError: there are none; they are of several models, act at several kinds of site or on
            several parts of the text; one does something else than always add; or nothing is left.
    """
    _check(steers)
    site, placed = _placed(steers)
    layers = tuple(sorted(placed))
    directions = np.stack([_direction(placed[layer]) for layer in layers])
    factors = [_factors(placed[layer]) for layer in layers]
    rank = max(len(down) for down, _ in factors)
    if not rank and not directions.any():
        raise VectorError(f"nothing is left of {_named(steers)}: they cancel")
    how = Combination(op="sum", parts=tuple(part_of(steer) for steer in steers))
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
        method=Method(name="combine", combination=how),
        read=Read(positions=_positions(steers)),
        contrast=contrast_of(how, steers),
        statistics=tuple(
            _statistics(layer, placed[layer], direction)
            for layer, direction in zip(layers, directions, strict=True)
        ),
        recommended=Recommended(
            layers=layers, coefficient=1.0, evidence="combined; no sweep was run"
        ),
    )
    return SteeringVector(metadata, directions, *_filled(factors, rank))


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
    """Why it is no constant add, if it is none."""
    if steer.op != ADD:
        return "depends on the activations" if steer.op.op.adds else "does not add"
    if steer.schedule != CONSTANT:
        return "changes from token to token"
    return "" if steer.gate is None else "waits for a gate"


def _placed(steers: Sequence[Steer]) -> tuple[SiteName, dict[int, _Meeting]]:
    """Which steers meet at which layer of the one site that all act at."""
    names = {steer.vector.metadata.activation_site for steer in steers}
    placed: dict[int, _Meeting] = {}
    if len(names) > 1:
        # `resid_pre` and `resid_post` may still be the same tensors.
        names = {site.name for steer in steers for site in steer.sites()}
        if len(names) > 1:
            raise VectorError(
                f"{_named(steers)} cannot be one vector:"
                f" their sites differ ({listed(sorted(names))})"
            )
        for steer in steers:
            for site, layer in steer.sites().items():
                placed.setdefault(site.layer, []).append((steer, layer))
        return names.pop(), placed
    for steer in steers:
        for layer in steer.layers:
            placed.setdefault(layer, []).append((steer, layer))
    return names.pop(), placed


def _direction(meeting: _Meeting) -> Directions:
    deltas = [steer.delta(layer).astype(np.float64) for steer, layer in meeting]
    return np.asarray(np.sum(deltas, axis=0), dtype=np.float32)


def _factors(meeting: _Meeting) -> tuple[Directions, Directions]:
    """`down` [k, d_model] and `up` [d_model, k] of all low-rank edits; k may be 0."""
    width = meeting[0][0].vector.metadata.width
    # By vector, so that one and its negative leave nothing at all.
    factors: dict[tuple[str, int], float] = {}
    vectors: dict[str, SteeringVector] = {}
    for steer, layer in meeting:
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


def _filled(
    factors: Sequence[tuple[Directions, Directions]], rank: int
) -> tuple[Directions, Directions] | tuple[()]:
    """All layers' factors at one rank, or none where there is no low-rank edit at all."""
    if not rank:
        return ()
    down = [np.pad(lower, ((0, rank - len(lower)), (0, 0))) for lower, _ in factors]
    up = [np.pad(upper, ((0, 0), (0, rank - upper.shape[1]))) for _, upper in factors]
    return np.stack(down), np.stack(up)


def _positions(steers: Sequence[Steer]) -> str:
    """What makes the result act where the steers do, when nobody says where."""
    if steers[0].scope.kind == "response":
        return "response"
    read = {steer.vector.metadata.read.positions for steer in steers}
    return read.pop() if len(read) == 1 else "mixed"


def _statistics(layer: int, meeting: _Meeting, direction: Directions) -> LayerStatistics:
    rows = [(steer, steer.vector.metadata.at(own)) for steer, own in meeting]
    norm = float(np.linalg.norm(direction.astype(np.float64)))
    if any(steer.vector.metadata.rank for steer, _ in rows):
        # What a sum of low-rank edits adds to a text is not known without the text; at most this.
        norm = sum(
            abs(steer.coefficient.value)
            * (row.norm if steer.coefficient.unit == "vector" else row.resid_norm or 0.0)
            for steer, row in rows
        )
    resid_norm = mean_length(row.resid_norm for _, row in rows)
    return LayerStatistics(layer=layer, norm=rounded(norm), resid_norm=resid_norm)


def _named(steers: Sequence[Steer]) -> str:
    return listed(str(steer) for steer in steers)
