"""Read gates: prompt gates before anything is steered, and token gates during each forward."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from torch import Tensor

from steer.base.errors import HookError
from steer.contrasts.reading import Reading
from steer.hooks import ops
from steer.hooks.clock import TokenClock
from steer.hooks.hooks import Constants, SiteFunction
from steer.hooks.record import record
from steer.models.model import Model
from steer.steering.projection import Gate, Projection, Threshold
from steer.steering.readouts import Readout
from steer.steering.steers import Steer
from steer.vectors.sites import Site


def prompt_values(
    model: Model,
    steers: Sequence[Steer],
    prompts: Sequence[Sequence[int]],
    behind: tuple[int, int] = (-1, 0),
) -> dict[Gate, list[float]]:
    """The unsteered values of each prompt gate for each prompt, in the units of the gate's file.

    prompts: token ids. Means leave out special tokens at the beginning. Only gates that read deeper
    than `behind` are read here, in a forward of their own; `prompt_readers` reads the others in the
    steered forward, where nothing before them is steered.

    Raises:
        HookError: the site of a gate was never reached.
        SiteError: the model has no such site.
    """
    gates = [gate for gate in _gates(steers, of_tokens=False) if gate.site.depth > behind]
    if not gates:
        return {}
    distinct = {tuple(ids): index for index, ids in enumerate(dict.fromkeys(map(tuple, prompts)))}
    values = {gate: np.zeros(len(distinct)) for gate in gates}
    for pooling in {gate.pooling for gate in gates}:
        pooled = [gate for gate in gates if gate.pooling == pooling]
        sites = sorted({gate.site for gate in pooled})
        readings = [_reading(model, ids, last=pooling == "last") for ids in distinct]
        for batch in record(model, readings, sites):
            for gate in pooled:
                projection = gate.threshold.projection
                rows = batch.activations[:, sites.index(gate.site)]
                values[gate][batch.indices] = rows @ projection.weights + projection.offset
    return {
        gate: [float(row[distinct[tuple(ids)]]) for ids in prompts] for gate, row in values.items()
    }


def prompt_readers(steers: Sequence[Steer], clock: TokenClock) -> dict[Site, SiteFunction]:
    """Site functions that read prompt gates in the forward of the prompts, and store their values
    in the clock, for gates without a value yet."""
    by_site: dict[Site, list[Gate]] = {}
    for gate in _gates(steers, of_tokens=False):
        if gate not in clock.values:
            by_site.setdefault(gate.site, []).append(gate)
    return {site: _prompt_reader(gates, clock) for site, gates in by_site.items()}


def token_gates(steers: Sequence[Steer], clock: TokenClock) -> dict[Site, SiteFunction]:
    """Site functions that record in the clock which tokens open token gates."""
    by_site: dict[Site, list[Gate]] = {}
    for gate in _gates(steers, of_tokens=True):
        by_site.setdefault(gate.site, []).append(gate)
    return {site: _token_reader(gates, clock) for site, gates in by_site.items()}


class Reader:
    """Reads several projections at one site together."""

    def __init__(self, projections: Sequence[Projection | Readout]) -> None:
        self._numbers = Constants(_numbers(projections))

    def __call__(self, resid: Tensor) -> Tensor:
        """The projections of resid [..., d_model], in their units, float32 [..., projection]."""
        return ops.read(resid, *self._numbers.beside(resid))


def _numbers(projections: Sequence[Projection | Readout]) -> list[np.ndarray]:
    """Weights [projection, d_model] and offsets [projection], float32."""
    weights = np.stack([each.weights for each in projections])
    return [weights, np.array([each.offset for each in projections], dtype=np.float32)]


def passes(threshold: Threshold, values: Tensor) -> Tensor:
    """Whether projections, in the file's units, pass the threshold, bool like `values`."""
    return values > threshold.value if threshold.above else values < threshold.value


def _prompt_reader(gates: Sequence[Gate], clock: TokenClock) -> SiteFunction:
    read = Reader([gate.threshold.projection for gate in gates])
    waiting = True

    def tell(resid: Tensor) -> None:
        nonlocal waiting
        if not waiting:
            return
        if clock.start or resid.shape[1] != clock.prompt_length:
            raise HookError(f"the prompts run in several parts, so {gates[0]} cannot read them")
        waiting = False
        # Only the first beam of each prompt; on the CPU, since not every device has float64.
        values = read(resid)[:: len(resid) // len(clock.pads)].cpu().double()
        for column, gate in enumerate(gates):
            row = values[..., column].tolist()
            firsts = [-1] * len(row) if gate.pooling == "last" else _firsts(clock)
            counted = [tokens[first:] for tokens, first in zip(row, firsts, strict=True)]
            clock.values[gate] = [sum(tokens) / len(tokens) for tokens in counted]

    return tell


def _firsts(clock: TokenClock) -> list[int]:
    """The column of each prompt's first token that is not special."""
    if clock.ids is None or clock.ids.shape[1] != clock.prompt_length:
        raise HookError("the model gets no token ids, so special tokens cannot be recognised")
    rows = clock.ids[:: len(clock.ids) // len(clock.pads)].tolist()
    pairs = zip(rows, clock.pads, strict=True)
    return [pad + _first(ids[pad:], clock.special) for ids, pad in pairs]


def _token_reader(gates: Sequence[Gate], clock: TokenClock) -> SiteFunction:
    thresholds = [gate.threshold for gate in gates]
    weights, offsets = _numbers([each.projection for each in thresholds])
    # Signed distances from the thresholds: positive is open, whatever the side.
    signs = np.array([1 if each.above else -1 for each in thresholds], dtype=np.float32)
    limits = np.array([each.value for each in thresholds], dtype=np.float32)
    margins = signs[:, None] * weights, signs * (offsets - limits)
    beside = Constants([*margins, np.zeros(1, dtype=np.float32)]).beside
    latches = [clock.latch(gate) for gate in gates]

    def tell(resid: Tensor) -> None:
        *margins, zero = beside(resid)
        opened = (ops.read(resid, *margins) > zero).float()
        is_one, width = len(latches) == 1, resid.shape[1]
        for index, latch in enumerate(latches):
            latch.tick = clock.ticks
            latch.tokens = opened if is_one else opened[..., index : index + 1]
            if clock.step(width) >= 0:
                latch.written.append(latch.tokens if width == 1 else latch.tokens[:, -1:])

    return tell


def _gates(steers: Sequence[Steer], *, of_tokens: bool) -> list[Gate]:
    gates = dict.fromkeys(steer.gate for steer in steers if steer.gate is not None)
    return [gate for gate in gates if (gate.pooling == "token") == of_tokens]


def _reading(model: Model, ids: Sequence[int], *, last: bool) -> Reading:
    first = len(ids) - 1 if last else _first(ids, model.special_ids)
    return Reading(tuple(ids), ((first, len(ids)),))


def _first(ids: Sequence[int], special: Collection[int]) -> int:
    """Index of the first token that is not special; 0 if all are."""
    return next((index for index, token in enumerate(ids) if token not in special), 0)
