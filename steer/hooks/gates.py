"""Gates as they are opened: by prompts, read before anything is steered, or by tokens that pass."""

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
from steer.steering.projection import Condition, Gate, Projection
from steer.steering.readouts import Readout
from steer.steering.steers import Steer
from steer.vectors.sites import Site


def prompt_values(
    model: Model,
    steers: Sequence[Steer],
    prompts: Sequence[Sequence[int]],
    behind: tuple[int, int] = (-1, 0),
) -> dict[Gate, list[float]]:
    """What each gate that looks at prompts reads of each, in the file's units, unsteered.

    prompts: token ids. The mean is over all tokens but special ones at the beginning. Only gates
    that read behind the depth `behind` are asked: what others read, nothing has steered yet when
    the prompts pass, and `prompt_readers` reads it then.

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
        here = [gate for gate in gates if gate.pooling == pooling]
        sites = sorted({gate.site for gate in here})
        readings = [_reading(model, ids, last=pooling == "last") for ids in distinct]
        for batch in record(model, readings, sites):
            for gate in here:
                projection = gate.condition.projection
                rows = batch.activations[:, sites.index(gate.site)]
                values[gate][batch.indices] = rows @ projection.weights + projection.offset
    return {
        gate: [float(row[distinct[tuple(ids)]]) for ids in prompts] for gate, row in values.items()
    }


def prompt_readers(steers: Sequence[Steer], clock: TokenClock) -> dict[Site, SiteFunction]:
    """Functions that tell the clock what gates read of the prompts as these pass, by site: of the
    gates of which it knows nothing yet."""
    by_site: dict[Site, list[Gate]] = {}
    for gate in _gates(steers, of_tokens=False):
        if gate not in clock.values:
            by_site.setdefault(gate.site, []).append(gate)
    return {site: _prompt_reader(gates, clock) for site, gates in by_site.items()}


def token_gates(steers: Sequence[Steer], clock: TokenClock) -> dict[Site, SiteFunction]:
    """Functions that tell the clock which tokens open gates, by the site that they read."""
    by_site: dict[Site, list[Gate]] = {}
    for gate in _gates(steers, of_tokens=True):
        by_site.setdefault(gate.site, []).append(gate)
    return {site: _teller(gates, clock) for site, gates in by_site.items()}


class Reader:
    """Reads several projections at one site at once."""

    def __init__(self, projections: Sequence[Projection | Readout]) -> None:
        self._numbers = Constants(_numbers(projections))

    def __call__(self, resid: Tensor) -> Tensor:
        """In their units, float32 [..., projection], of resid [..., d_model]."""
        return ops.read(resid, *self._numbers.beside(resid))


def _numbers(projections: Sequence[Projection | Readout]) -> list[np.ndarray]:
    """Weights [projection, d_model] and offsets [projection], float32."""
    weights = np.stack([one.weights for one in projections])
    return [weights, np.array([one.offset for one in projections], dtype=np.float32)]


def holds(condition: Condition, values: Tensor) -> Tensor:
    """Which projections in the file's units meet a condition, bool as `values`."""
    return values > condition.threshold if condition.above else values < condition.threshold


def _prompt_reader(gates: Sequence[Gate], clock: TokenClock) -> SiteFunction:
    read = Reader([gate.condition.projection for gate in gates])
    waiting = True

    def tell(resid: Tensor) -> None:
        nonlocal waiting
        if not waiting:
            return
        if clock.start or resid.shape[1] != clock.prompt_length:
            raise HookError(f"the prompts came in parts, so {gates[0]} cannot read them")
        waiting = False
        # Of beams, the first; and not every device has float64.
        values = read(resid)[:: len(resid) // len(clock.pads)].cpu().double()
        for column, gate in enumerate(gates):
            row = values[..., column].tolist()
            firsts = [-1] * len(row) if gate.pooling == "last" else _firsts(clock)
            means = [one[first:] for one, first in zip(row, firsts, strict=True)]
            clock.values[gate] = [sum(one) / len(one) for one in means]

    return tell


def _firsts(clock: TokenClock) -> list[int]:
    """The column of each prompt's first token that is not special."""
    if clock.ids is None or clock.ids.shape[1] != clock.prompt_length:
        raise HookError("this model is not given token ids, so none can be told to be special")
    rows = clock.ids[:: len(clock.ids) // len(clock.pads)].tolist()
    pairs = zip(rows, clock.pads, strict=True)
    return [pad + _first(ids[pad:], clock.special) for ids, pad in pairs]


def _teller(gates: Sequence[Gate], clock: TokenClock) -> SiteFunction:
    conditions = [gate.condition for gate in gates]
    weights, offsets = _numbers([one.projection for one in conditions])
    # How far on the open side of its threshold each is, so that nothing is told apart every time.
    signs = np.array([1 if one.above else -1 for one in conditions], dtype=np.float32)
    thresholds = np.array([one.threshold for one in conditions], dtype=np.float32)
    margins = signs[:, None] * weights, signs * (offsets - thresholds)
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
    """Where the first token that is not special stands; the first of all where all are."""
    return next((index for index, token in enumerate(ids) if token not in special), 0)
