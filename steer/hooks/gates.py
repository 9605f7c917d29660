"""Gates as they are opened: by prompts, read before anything is steered, or by tokens that pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from steer.contrasts.reading import Reading
from steer.hooks import ops
from steer.hooks.clock import TokenClock
from steer.hooks.hooks import Constants, SiteFunction
from steer.hooks.record import record
from steer.models.model import Model
from steer.sites import Site
from steer.steering.projection import Condition, Gate, Projection
from steer.steering.readouts import Readout
from steer.steering.steers import Steer


def prompt_values(
    model: Model, steers: Sequence[Steer], prompts: Sequence[Sequence[int]]
) -> dict[Gate, list[float]]:
    """What each gate that looks at prompts reads of each, in the file's units, unsteered.

    prompts: token ids. The mean is over all tokens but special ones at the beginning.

    Raises:
        HookError: the site of a gate was never reached.
        SiteError: the model has no such site.
    """
    gates = [gate for gate in _gates(steers) if gate.pooling != "token"]
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


def opened(values: Mapping[Gate, Sequence[float]]) -> dict[Gate, list[bool]]:
    """Which prompts open each gate."""
    return {gate: [gate.condition.holds(value) for value in row] for gate, row in values.items()}


def token_gates(steers: Sequence[Steer], clock: TokenClock) -> dict[Site, SiteFunction]:
    """Functions that tell the clock which tokens open gates, by the site that they read."""
    by_site: dict[Site, list[Gate]] = {}
    for gate in _gates(steers):
        if gate.pooling == "token":
            by_site.setdefault(gate.site, []).append(gate)
    return {site: _teller(gates, clock) for site, gates in by_site.items()}


class Reader:
    """Reads several projections at one site at once."""

    def __init__(self, projections: Sequence[Projection | Readout]) -> None:
        weights = np.stack([one.weights for one in projections], axis=1)
        offsets = np.array([one.offset for one in projections], dtype=np.float32)
        self._numbers = Constants([weights, offsets])

    def __call__(self, resid: Tensor) -> Tensor:
        """In their units, float32 [..., projection], of resid [..., d_model]."""
        return ops.read(resid, *self._numbers.beside(resid))


def holds(condition: Condition, values: Tensor) -> Tensor:
    """Which projections in the file's units meet a condition, bool as `values`."""
    return values > condition.threshold if condition.above else values < condition.threshold


def _teller(gates: Sequence[Gate], clock: TokenClock) -> SiteFunction:
    conditions = [gate.condition for gate in gates]
    read = Reader([condition.projection for condition in conditions])

    def tell(resid: Tensor) -> None:
        for gate, values in zip(gates, read(resid).unbind(-1), strict=True):
            clock.opened(gate, holds(gate.condition, values[..., None]))

    return tell


def _gates(steers: Sequence[Steer]) -> list[Gate]:
    return list(dict.fromkeys(steer.gate for steer in steers if steer.gate is not None))


def _reading(model: Model, ids: Sequence[int], *, last: bool) -> Reading:
    special = set(model.tokenizer.all_special_ids)
    first = next((index for index, token in enumerate(ids) if token not in special), 0)
    return Reading(tuple(ids), ((len(ids) - 1 if last else first, len(ids)),))
