"""The same beginnings under several ways of steering, written in one batch.

A small model takes about as long for a token of eight texts as for one of eighty, so that cells
which are written together cost little more than one of them alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from steer.generate.apply import Beginning, continue_ids, up_to_end
from steer.generate.batch import Batch
from steer.hooks.clock import TokenClock
from steer.hooks.inject import by_rows, site_functions
from steer.models.model import Model
from steer.steering.generation import Row, Sampling
from steer.steering.steers import ALWAYS, Steer


def continue_cells(
    model: Model,
    beginnings: Sequence[Beginning],
    cells: Sequence[Sequence[Steer]],
    sampling: Sampling,
) -> list[list[list[int]]]:
    """New token ids [cell][beginning] after each beginning (its token ids, and which sample of it
    this is), under the steers of each cell. Each text is what it is alone.

    Cells are written one after another where steers act on some positions only, and with models
    whose texts depend on what else is in their batch.

    Raises:
        HookError: a steer was never applied.
    """
    together = model.batching == "any" and all(
        steer.when == ALWAYS for cell in cells for steer in cell
    )
    if not together:
        return [continue_ids(model, beginnings, cell, sampling) for cell in cells]
    n = len(beginnings)
    clock = TokenClock(0, torch.zeros(n, dtype=torch.int64))
    functions = by_rows([site_functions(model, cell, clock) for cell in cells], n)
    rows = [Row("", sample, list(ids)) for _ in cells for ids, sample in beginnings]
    new = Batch(model, rows, (), sampling, edits=functions).run()
    ended = [up_to_end(model, ids) for ids in new]
    return [ended[start : start + n] for start in range(0, len(ended), n)]
