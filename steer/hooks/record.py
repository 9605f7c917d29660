"""Record activations at sites, pooled during the forward.

It runs the model's body (no LM head) without gradients, and stops the forward once every site has
been read. Tokens that passages share at their beginning run once (`packing`), if a test shows that
the model supports it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from steer.base.errors import ModelError
from steer.contrasts.reading import Reading
from steer.hooks import ops
from steer.hooks.hooks import SiteFunction, placed
from steer.hooks.packing import ByNumber, PackedRow, batches, halves, layout, one_per_row, pack
from steer.models.memory import ran_out, token_budget
from steer.models.model import Model
from steer.vectors.sites import Site

#: The relative difference of packed from unpacked activations that counts as rounding, by dtype. A
#: wrong mask or position causes a larger one.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4}
COARSE_TOLERANCE = 0.05

#: For each network: the depth and length of the tested row, and whether the test passed.
_tried: WeakKeyDictionary[nn.Module, tuple[int, int, bool]] = WeakKeyDictionary()


class _AllSeenError(Exception):
    """Raised inside a forward once everything is read."""


def run(
    model: Model,
    ids: Tensor,
    mask: Tensor,
    readers: dict[Site, Callable[[Tensor], None]],
    positions: Tensor | None = None,
) -> None:
    """One forward of the body that calls each reader once with [row, position, d_model].

    mask: int [row, position], 0 for padding; or the additive attention mask, float [row, 1,
    position, position], which needs positions: int [row, position].

    Raises:
        HookError: a site was never reached.
        SiteError: the model has no such site.
        ModelError: activations are NaN or infinite.
    """
    waiting = set(readers)
    is_token = mask > 0 if mask.ndim == 2 else None
    broken: dict[Site, Tensor] = {}

    def reader(site: Site) -> SiteFunction:
        def read(resid: Tensor) -> None:
            broken[site] = _broken(resid, is_token)
            readers[site](resid)
            waiting.discard(site)
            if not waiting:
                raise _AllSeenError

        return read

    functions = {site: reader(site) for site in readers}
    # Only if it is needed, since not every model has the argument.
    where = {} if positions is None else {"position_ids": positions}
    # Suppressed inside `placed`, so that its block ends normally.
    with torch.no_grad(), placed(model, functions), suppress(_AllSeenError):
        model.body(input_ids=ids, attention_mask=mask, use_cache=False, **where)
    # Checked at the end, to wait for the device once.
    for site in sorted(broken):
        if bool(broken[site]):
            raise ModelError(
                f"{model.identity.id}: activations at {site} are NaN or infinite",
                hint="the weights are broken, or overflow in this dtype: try --dtype=float32",
            )


def _broken(resid: Tensor, is_token: Tensor | None) -> Tensor:
    """Whether any activation is NaN or infinite, bool []. is_token: bool [row, position], False at
    padding."""
    # NaN and infinity survive a sum, which needs one pass and no copy.
    wrong = ~resid.sum(-1, dtype=torch.float32).isfinite()
    return (wrong if is_token is None else wrong & is_token.to(wrong.device)).any()


def capture(model: Model, ids: Tensor, mask: Tensor, sites: Sequence[Site]) -> dict[Site, Tensor]:
    """Whole activations [row, position, d_model] of each site, copied.

    Raises:
        HookError: a site was never reached.
        SiteError: the model has no such site.
    """
    seen: dict[Site, Tensor] = {}

    def keep(site: Site) -> Callable[[Tensor], None]:
        # A copy, since some blocks change the tensor in place later.
        return lambda resid: seen.__setitem__(site, resid.detach().clone())

    run(model, ids, mask, {site: keep(site) for site in sites})
    return seen


@dataclass(frozen=True, slots=True)
class PooledActivations:
    """Pooled activations of one batch.

    indices: of the readings, [n]. activations: float32 [n, n_spans * n_sites, d_model], the means
    over each span of a reading, all sites of the first span before those of the second. norms:
    float32 [n, n_spans * n_sites], the mean lengths over each span.
    """

    indices: list[int]
    activations: NDArray[np.float32]
    norms: NDArray[np.float32]


def record(
    model: Model,
    readings: Sequence[Reading],
    sites: Sequence[Site],
    max_tokens: int | None = None,
) -> Iterator[PooledActivations]:
    """Pooled activations of every reading, batch by batch, shortest first (`in_batches`).

    Raises:
        HookError: a site was never reached.
        SiteError: the model has no such site.
    """
    recorder = Recorder(model, sites)
    for rows in in_batches(model, readings, max_tokens):
        yield from recorder(ReadingBatch.of(rows, readings))


class ReadingBatch(NamedTuple):
    """Rows that run together, and their readings by index; enough for a worker."""

    rows: Sequence[PackedRow]
    readings: Mapping[int, Reading]

    @classmethod
    def of(cls, rows: Sequence[PackedRow], readings: Sequence[Reading]) -> ReadingBatch:
        return cls(rows, {index: readings[index] for index in readings_of(rows)})


def in_batches(
    model: Model, readings: Sequence[Reading], max_tokens: int | None = None
) -> list[list[PackedRow]]:
    """Readings in batches of at most `max_tokens` tokens including padding (or of one reading);
    None takes what the memory allows. All readings have the same number of spans.
    """
    limit = token_budget(model) if max_tokens is None else max_tokens
    rows = in_rows(model, readings, limit)
    divided = batches([row.length for row in rows], limit)
    return [[rows[index] for index in batch] for batch in divided]


def readings_of(rows: Sequence[PackedRow]) -> list[int]:
    """The indices of the readings in some rows."""
    return [index for row in rows for index in row.readings]


@dataclass
class Recorder:
    """Runs batches. One that does not fit in memory is halved and run again."""

    model: Model
    sites: Sequence[Site]

    def __post_init__(self) -> None:
        #: A batch of this many tokens has run out of memory.
        self._too_many = sys.maxsize

    def __call__(self, batch: ReadingBatch) -> list[PooledActivations]:
        """Pooled activations of the batch's readings, in as many parts as memory required.

        Raises:
            HookError: a site was never reached.
            SiteError: the model has no such site.
        """
        rows, readings = batch
        size = len(rows) * max(row.length for row in rows)
        if size < self._too_many or not _divisible(rows):
            done = _attempt(self.model, readings, rows, self.sites)
            if done is not None:
                return [done]
            self._too_many = min(self._too_many, size)
        halved = _halved(rows, readings)
        return [done for half in halved for done in self(ReadingBatch(half, readings))]


def in_rows(
    model: Model,
    readings: Sequence[Reading],
    limit: int,
    may_share: Callable[[int, int, int], int] = lambda first, second, shared: shared,
) -> list[PackedRow]:
    """Rows of readings of at most `limit` tokens (or of one reading), packed if that saves tokens
    and a test shows that the model supports it. may_share: as of `pack`."""
    # A row is at most as long as the model's context, since some models keep a mask of that size.
    longest = min(limit, model.context or limit)
    rows = pack(readings, model.identity.d_model, longest, model.window, may_share)
    packed = [row for row in rows if len(row.readings) > 1]
    if not packed:
        return rows
    depth = max(len(readings[index].ids) for row in packed for index in row.readings)
    length = max(row.length for row in packed)
    known = _tried.get(model.network)
    if known is None or depth > known[0] or length > known[1]:
        # Test longer ones too, so that the next batch needs no test of its own.
        before = known[:2] if known is not None else (0, 0)
        most = min(model.window or _power(depth), model.context or _power(depth))
        depth = max(depth, min(_power(depth), most), before[0])
        length = max(length, min(_power(length), longest), before[1])
        _tried[model.network] = depth, length, _takes_packed(model, depth, length)
    return rows if _tried[model.network][2] else one_per_row(readings)


def _power(n: int) -> int:
    """The next power of two."""
    return 1 << (n - 1).bit_length()


def _takes_packed(model: Model, depth: int, length: int) -> bool:
    """Whether random readings of `depth` tokens give the same activations in a packed row of
    `length` tokens as in rows of their own."""
    rng = np.random.default_rng(0)
    stem = rng.integers(0, model.network.config.get_text_config().vocab_size, depth)
    branches = [stem]
    while len(stem) + (len(branches) - 1) * (depth - depth // 2) < length:
        ending = rng.permutation(stem)[depth // 2 :]
        branches.append(np.concatenate([stem[: depth // 2], ending]))
    trial = [Reading(tuple(ids.tolist()), ((depth - 1, depth),)) for ids in branches]
    shared = (0, *[depth // 2] * (len(trial) - 1))
    row = PackedRow(tuple(range(len(trial))), shared, sum(depth - n for n in shared))
    top = [max(site for site in model.hooks.places if site.name == "resid_post")]
    try:
        expected = pooled(model, [trial[0], trial[-1]], one_per_row([trial[0], trial[-1]]), top)
        together = pooled(model, trial, [row], top).activations[[0, -1]]
    # A model without support for such masks or positions may raise anything.
    except Exception:
        return False
    off = np.linalg.norm(together - expected.activations, axis=-1)
    tolerance = TOLERANCE.get(model.network.dtype, COARSE_TOLERANCE)
    return bool((off <= tolerance * np.linalg.norm(expected.activations, axis=-1)).all())


def _attempt(
    model: Model, readings: ByNumber, rows: Sequence[PackedRow], sites: Sequence[Site]
) -> PooledActivations | None:
    """`pooled`; None if memory ran out and the batch can be divided."""
    try:
        return pooled(model, readings, rows, sites)
    except RuntimeError as error:
        if not (ran_out(error) and _divisible(rows)):
            raise
    # Outside the handler the exception is gone, and with it the tensors that its frames held.
    return None


def _divisible(rows: Sequence[PackedRow]) -> bool:
    return len(rows) > 1 or len(rows[0].readings) > 1


def _halved(rows: Sequence[PackedRow], readings: ByNumber) -> list[list[PackedRow]]:
    if len(rows) == 1:
        return [[part] for part in halves(rows[0], readings)]
    half = len(rows) // 2
    return [list(rows[:half]), list(rows[half:])]


class Inputs(NamedTuple):
    """The inputs of a forward of packed rows. mask, positions: as in `run`. paths: for each
    reading, its row and the columns of its tokens."""

    ids: Tensor
    mask: Tensor
    positions: Tensor | None
    paths: list[tuple[int, NDArray[np.int64]]]


def inputs(model: Model, readings: ByNumber, rows: Sequence[PackedRow]) -> Inputs:
    """The inputs of the model's body for a batch of rows."""
    indices = readings_of(rows)
    if len(indices) == len(rows):
        # Padded on the right, so that positions count from 0 in every row; later tokens cannot
        # change earlier ones.
        ids, mask = model.padded([readings[index].ids for index in indices], left=False)
        paths = [(row, np.arange(len(readings[index].ids))) for row, index in enumerate(indices)]
        return Inputs(ids, mask, None, paths)
    arrays = layout(rows, readings)
    ids, positions = (torch.from_numpy(part).to(model.device) for part in arrays[:2])
    mask = _additive(torch.from_numpy(arrays.visible), model.network.dtype).to(model.device)
    return Inputs(ids, mask, positions, arrays.paths)


def pooled(
    model: Model, readings: ByNumber, rows: Sequence[PackedRow], sites: Sequence[Site]
) -> PooledActivations:
    """Run the readings of `rows` as one batch.

    Raises:
        HookError: a site was never reached.
        SiteError: the model has no such site.
    """
    indices = readings_of(rows)
    ids, mask, positions, paths = inputs(model, readings, rows)
    n_spans = len(readings[indices[0]].spans)
    slots = [slot for row in rows for slot in range(len(row.readings))]
    weights = torch.zeros((len(rows), n_spans * (max(slots) + 1), ids.shape[1]))
    for index, slot, (row, path) in zip(indices, slots, paths, strict=True):
        for number, (start, stop) in enumerate(readings[index].spans):
            weights[row, n_spans * slot + number, path[start:stop]] = 1 / (stop - start)
    weights = weights.to(model.device)
    means: dict[Site, tuple[Tensor, Tensor]] = {}

    def reader(site: Site) -> Callable[[Tensor], None]:
        def read(resid: Tensor) -> None:
            local = weights.to(resid.device)
            means[site] = ops.pool(resid, local).cpu(), ops.pooled_norm(resid, local).cpu()

        return read

    run(model, ids, mask, {site: reader(site) for site in sites}, positions)
    # [n, n_spans]: the row of each reading's sums, and their index in it.
    sums = n_spans * np.array(slots)[:, None] + np.arange(n_spans)
    where = np.array([row for row, _ in paths])[:, None], sums
    activations, norms = (
        torch.stack([means[site][part][where] for site in sites], dim=2).flatten(1, 2).numpy()
        for part in range(2)
    )
    return PooledActivations(indices, activations, norms)


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """The additive attention mask, [row, 1, position, position]: 0 where visible."""
    hidden = torch.finfo(dtype).min
    return torch.zeros(visible.shape, dtype=dtype).masked_fill(~visible, hidden)[:, None]
