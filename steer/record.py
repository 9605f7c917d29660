"""The reading half of the hook layer: activations at sites, reduced as they appear.

Reads with the model's body (no LM head), without gradients, and stops the forward once every site
has been seen, so that nothing above the highest layer is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steer import ops
from steer.hooks import SiteFunction, placed
from steer.model import Model
from steer.reading import Reading
from steer.sites import Site

#: Tokens, padding counted, that run in one batch.
CPU_TOKENS = 2_048
ACCELERATOR_TOKENS = 16_384


class _AllSeenError(Exception):
    """Raised inside a forward when nothing more is to be read."""


def run(
    model: Model, ids: Tensor, mask: Tensor, readers: dict[Site, Callable[[Tensor], None]]
) -> None:
    """One forward of the body that calls each reader once with [row, position, d_model].

    Raises:
        HookError: a site was never reached.
        SiteError: the model has no such site.
    """
    waiting = set(readers)

    def reader(site: Site) -> SiteFunction:
        def read(resid: Tensor) -> None:
            readers[site](resid)
            waiting.discard(site)
            if not waiting:
                raise _AllSeenError

        return read

    functions = {site: reader(site) for site in readers}
    # What raises is the last hook: inside `placed`, so that its block ends well.
    with torch.no_grad(), placed(model, functions), suppress(_AllSeenError):
        model.body(input_ids=ids, attention_mask=mask, use_cache=False)


def capture(model: Model, ids: Tensor, mask: Tensor, sites: Sequence[Site]) -> dict[Site, Tensor]:
    """Whole activations [row, position, d_model] of each site, copied.

    Raises:
        HookError: a site was never reached.
        SiteError: the model has no such site.
    """
    seen: dict[Site, Tensor] = {}

    def keep(site: Site) -> Callable[[Tensor], None]:
        # A copy: some blocks go on to add to the tensor in place.
        return lambda resid: seen.__setitem__(site, resid.detach().clone())

    run(model, ids, mask, {site: keep(site) for site in sites})
    return seen


@dataclass(frozen=True, slots=True)
class Recorded:
    """Pooled activations of one batch.

    indices: which readings, [n]. activations: float32 [n, n_sites, d_model], averaged over each
    reading's span. norms: float32 [n, n_sites], mean length over the span.
    """

    indices: list[int]
    activations: NDArray[np.float32]
    norms: NDArray[np.float32]


def record(
    model: Model,
    readings: Sequence[Reading],
    sites: Sequence[Site],
    max_tokens: int | None = None,
    wanted: Callable[[list[int]], bool] = lambda indices: True,
) -> Iterator[Recorded]:
    """Pooled activations of every reading, batch by batch, shortest first.

    A batch that does not fit in memory is halved and run again. One that is not `wanted`, by the
    indices of its readings, is left out; the others stay as they are.

    Raises:
        HookError: a site was never reached.
        SiteError: the model has no such site.
    """
    if max_tokens is None:
        max_tokens = CPU_TOKENS if model.device.type == "cpu" else ACCELERATOR_TOKENS
    pending = batches([len(reading.ids) for reading in readings], max_tokens)[::-1]
    while pending:
        indices = pending.pop()
        if not wanted(indices):
            continue
        try:
            yield _record_batch(model, [readings[index] for index in indices], indices, sites)
        except torch.OutOfMemoryError:
            if len(indices) == 1:
                raise
            half = len(indices) // 2
            pending += [indices[half:], indices[:half]]


def batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices by rising length, in batches of at most `max_tokens` with padding (or of one)."""
    made: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if made and (len(made[-1]) + 1) * lengths[index] <= max_tokens:
            made[-1].append(index)
        else:
            made.append([index])
    return made


def _record_batch(
    model: Model, readings: Sequence[Reading], indices: list[int], sites: Sequence[Site]
) -> Recorded:
    # Padded on the right: positions then count from 0 in every row, whatever the model does
    # with them, and what follows a token cannot change it.
    ids, mask = model.padded([reading.ids for reading in readings], left=False)
    weights = torch.zeros(ids.shape, dtype=torch.float32, device=ids.device)
    for row, reading in enumerate(readings):
        weights[row, reading.start : reading.stop] = 1 / (reading.stop - reading.start)
    pooled: dict[Site, tuple[Tensor, Tensor]] = {}

    def reader(site: Site) -> Callable[[Tensor], None]:
        def read(resid: Tensor) -> None:
            here = weights.to(resid.device)
            pooled[site] = ops.pool(resid, here).cpu(), ops.pooled_norm(resid, here).cpu()

        return read

    run(model, ids, mask, {site: reader(site) for site in sites})
    return Recorded(
        indices,
        torch.stack([pooled[site][0] for site in sites], dim=1).numpy(),
        torch.stack([pooled[site][1] for site in sites], dim=1).numpy(),
    )
