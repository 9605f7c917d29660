"""Log-probabilities of a text's tokens after many different beginnings.

The beginnings are the same from text to text, such as the conditions of a pack, so their keys and
values are computed once and kept; a text then costs its own tokens only. Rows are padded on the
left, so that all of a group's texts begin at the same column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steer.base.errors import ModelError
from steer.contrasts.reading import Reading, shared_prefix
from steer.distillation.lessons import log_probs, vocabulary
from steer.hooks.head import Ending, apply_head, chosen_log_probs, has_head
from steer.hooks.record import in_batches, inputs, readings_of
from steer.hooks.trunk import are_alike, passes
from steer.models import caches
from steer.models.memory import free_bytes, token_budget
from steer.models.model import Model

Ids = Sequence[int]
Array = NDArray[np.float32]

#: Bytes of the log-probabilities of one batch.
_BYTES = 64_000_000
#: New tokens of a row in one forward, if a whole group of rows is as large as the memory allows.
_USUAL_LENGTH = 32


def within_memory(model: Model, counts: Sequence[int]) -> Iterator[list[int]]:
    """Indices of rows, in order, in parts whose log-probabilities fit the memory limit. counts: the
    number of predicted tokens of each row; rows without any are left out."""
    most = max(1, _BYTES // (4 * vocabulary(model)))
    part: list[int] = []
    tokens = 0
    for index, count in enumerate(counts):
        if not count:
            continue
        if part and tokens + count > most:
            yield part
            part, tokens = [], 0
        part.append(index)
        tokens += count
    if part:
        yield part


def packed(model: Model, rows: Sequence[Ending]) -> Tensor:
    """Log-probabilities of the last n tokens of each row, float32 [sum of n, vocabulary]; the
    beginnings that rows have in common run once."""
    if not has_head(model):
        return log_probs(model, rows)
    readings = [Reading(ids, ((0, 1),)) for ids, _ in rows]
    hidden: dict[int, Tensor] = {}
    for batch in in_batches(model, readings):
        arguments = inputs(model, readings, batch)
        where = {} if arguments.positions is None else {"position_ids": arguments.positions}
        stream = model.body(
            input_ids=arguments.ids, attention_mask=arguments.mask, use_cache=False, **where
        )[0]
        for index, (row, path) in zip(readings_of(batch), arguments.paths, strict=True):
            ids, n = rows[index]
            columns = torch.from_numpy(path[len(ids) - n - 1 : len(ids) - 1])
            hidden[index] = stream[row, columns.to(stream.device)]
    return apply_head(model, torch.cat([hidden[i] for i in range(len(rows))])).log_softmax(-1)


class Likelihoods:
    """Computes log-probabilities of the same text after a fixed number of beginnings.

    What rows have in common with those of the call before is not computed again, as far as its keys
    and values fit into memory.
    """

    def __init__(self, model: Model, n_rows: int) -> None:
        self.model = model
        size = max(1, token_budget(model) // _USUAL_LENGTH)
        self._groups = [slice(start, start + size) for start in range(0, n_rows, size)]
        self._kept: dict[int, _Kept] = {}

    @torch.no_grad()
    def __call__(
        self,
        rows: Sequence[Ids],
        n: int,
        *,
        continues: bool = False,
        on_rows: Callable[[int], None] = lambda n_rows: None,
    ) -> Array:
        """The log-probability of the last n tokens of each row, [row, n].

        rows: token ids, each with at least one token before these n. continues: the next call has
        longer rows that begin with these; otherwise it is taken to differ in the last n tokens.
        on_rows: called with the number of rows that have been done.
        """
        longest, window = max(map(len, rows)), self.model.window
        # A layer with a window forgets its first tokens, and with them what rows have in common.
        if not _takes_kept(self.model) or (window is not None and longest > window):
            return _uncached(self.model, rows, n, on_rows)
        return self._with_kept(rows, n, continues, on_rows)

    @torch.no_grad()
    def _with_kept(
        self, rows: Sequence[Ids], n: int, continues: bool, on_rows: Callable[[int], None]
    ) -> Array:
        values = np.empty((len(rows), n), np.float32)
        for number, group in enumerate(self._groups):
            values[group] = self._group(number, rows[group], n, continues)
            on_rows(len(rows[group]))
        return values

    def _group(self, number: int, rows: Sequence[Ids], n: int, continues: bool) -> Array:
        ids, mask = self.model.padded(rows, left=True)
        width = ids.shape[1]
        first = width - n - 1  # the column that predicts the first of the n tokens
        run = _Run(self.model, ids, mask, _common(self._kept.pop(number, None), rows, n))
        for _ in run.until(first):
            pass
        if not continues:
            self._keep(number, run.kept([row[: len(row) - n - 1] for row in rows]))
        values, start = [], first
        for hidden in run.until(width - 1):
            stop = start + hidden.shape[1]
            targets = ids[:, start + 1 : stop + 1]
            chosen = chosen_log_probs(self.model, hidden.flatten(0, 1), targets.flatten())
            values.append(chosen.cpu().numpy().reshape(tuple(targets.shape)))
            start = stop
        if continues:
            self._keep(number, run.kept([row[:-1] for row in rows]))
        return np.concatenate(values, axis=1)

    def _keep(self, number: int, kept: _Kept | None) -> None:
        free = free_bytes(self.model.device)
        if kept and (free is None or caches.n_bytes(kept.cache) <= free // 4):
            self._kept[number] = kept


@dataclass(frozen=True, slots=True)
class _Kept:
    """Keys and values of the first tokens of rows, padded on the left, and these tokens.

    name: of the argument of the forward that takes them.
    """

    rows: list[Ids]
    name: str
    cache: Any


class _Run:
    """Runs rows that are padded on the left, some columns at a time."""

    def __init__(self, model: Model, ids: Tensor, mask: Tensor, kept: _Kept | None) -> None:
        self._model, self._ids, self._mask = model, ids, mask
        self._positions = (mask.cumsum(-1) - 1).clamp(min=0)
        self._name, self._cache, self._done = "", None, 0
        if kept is not None:
            self._name, self._cache = kept.name, caches.copied(kept.cache)
            self._done = max(map(len, kept.rows))
        self._step = max(1, token_budget(model) // len(ids))

    def until(self, column: int) -> Iterator[Tensor]:
        """Run the columns before this one: the hidden states [row, column, d_model] of the new
        ones, in parts."""
        while self._done < column:
            start, stop = self._done, min(column, self._done + self._step)
            cached = {} if self._cache is None else {self._name: self._cache}
            output = self._model.body(
                input_ids=self._ids[:, start:stop],
                attention_mask=self._mask[:, :stop],
                position_ids=self._positions[:, start:stop],
                use_cache=True,
                **cached,
            )
            self._name, self._cache = caches.state_of(output)
            self._done = stop
            yield output[0]

    def kept(self, rows: list[Ids]) -> _Kept | None:
        """What has been computed so far. rows: the tokens of these columns."""
        if self._cache is None:
            return None
        if not caches.can_join(self._cache):
            raise ModelError("keys and values cannot be cut")
        return _Kept(rows, self._name, caches.copied(self._cache))


def _common(kept: _Kept | None, rows: Sequence[Ids], n: int) -> _Kept | None:
    """What is kept of the beginnings of rows, up to the token that predicts the last n; None if
    nothing is, or if the rest of the rows differs in length."""
    if kept is None or len(kept.rows) != len(rows):
        return None
    dropped = max(
        len(old) - min(shared_prefix(old, row), len(row) - n - 1)
        for old, row in zip(kept.rows, rows, strict=True)
    )
    lengths = [len(old) - dropped for old in kept.rows]
    left = {len(row) - length for row, length in zip(rows, lengths, strict=True)}
    if min(lengths) < 0 or max(lengths) == 0 or len(left) > 1:
        return None
    if not dropped:
        return kept
    beginnings = [row[:length] for row, length in zip(rows, lengths, strict=True)]
    return _Kept(beginnings, kept.name, caches.first(kept.cache, max(lengths)))


def _uncached(
    model: Model,
    rows: Sequence[Ids],
    n: int,
    on_rows: Callable[[int], None] = lambda n_rows: None,
) -> Array:
    """`Likelihoods` of a model whose keys and values cannot be kept, or cannot be cut."""
    values = np.empty((len(rows), n), np.float32)
    for part in within_memory(model, [n] * len(rows)):
        endings = [(rows[index], n) for index in part]
        tokens = torch.tensor([token for ids, n in endings for token in ids[-n:]])
        every = packed(model, endings)
        chosen = every.gather(1, tokens.to(every.device)[:, None])
        values[part] = chosen.cpu().numpy().reshape(len(part), n)
        on_rows(len(part))
    return values


def _takes_kept(model: Model) -> bool:
    """Whether the model gives the same log-probabilities with keys and values that were kept, in
    rows that are padded on the left; found by a test."""
    return has_head(model) and passes(model, _same_with_kept)


def _same_with_kept(model: Model) -> bool:
    rng = np.random.default_rng(0)
    size = vocabulary(model)
    beginnings, texts = (
        [tuple(rng.integers(0, size, length).tolist()) for length in lengths]
        for lengths in ((3, 8, 5), (6, 4, 7))
    )
    likelihoods = Likelihoods(model, len(beginnings))
    trials = [([(*row, *text) for row in beginnings], len(text)) for text in texts[:2]]
    longer = [(*row, *texts[2]) for row in trials[1][0]]
    trials.append((longer, len(texts[2])))
    for number, (rows, n) in enumerate(trials):
        values = likelihoods._with_kept(rows, n, number == 1, lambda n_rows: None)
        expected = _uncached(model, rows, n)
        if not are_alike(model, torch.from_numpy(values), torch.from_numpy(expected)):
            return False
    return True
