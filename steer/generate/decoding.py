"""Our parts of Hugging Face's `generate`: sampling, stopping and streaming."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from steer.base.text import TextDeltas
from steer.hooks.watch import Watch
from steer.models.model import Model
from steer.models.numbers import not_numbers
from steer.steering.projection import Guard

#: The least number of seconds between pieces of streamed text.
PAUSE = 0.02
#: Tokens of the vocabulary whose probabilities are summed together before one is drawn.
BLOCK = 256


@contextmanager
def nothing_else(model: Model) -> Iterator[None]:
    """During the block, `generate` ignores the checkpoint's own settings, except for end tokens.

    Many chat models come with, say, a repetition penalty. Texts would then not be sampled from the
    steered model's own distribution, which is the one that is scored and that engines sample from.
    """
    network, own = model.network, model.network.generation_config
    ends = sorted(model.end_ids) or None
    network.generation_config = type(own)(eos_token_id=ends, use_cache=own.use_cache)
    try:
        yield
    finally:
        network.generation_config = own


class Draw:
    """Logits processor that draws a token for each row and excludes all others.

    Inverse transform sampling: the token at which the summed probability passes a uniform number
    from the row's own stream. draws: float64 [new token] of each row.
    """

    def __init__(self, draws: Sequence[np.ndarray], device: torch.device) -> None:
        self._draws = torch.from_numpy(np.stack(draws)).to(_precision(device)).to(device)
        self._step = 0

    def __call__(self, _ids: Tensor, scores: Tensor) -> Tensor:
        token = drawn(scores, self._draws[:, self._step])
        self._step += 1
        return torch.full_like(scores, -math.inf).scatter(1, token[:, None], 0.0)


def drawn(scores: Tensor, uniform: Tensor) -> Tensor:
    """The token at which the summed probability passes a number from 0 to 1, int64 [row].

    First the block of tokens where it passes, then the token within, so that no float64 numbers
    are computed for the whole vocabulary, which takes as long as the LM head.

    scores: logits [row, vocabulary]. uniform: [row].
    """
    n_rows, n_tokens = scores.shape
    precision = _precision(scores.device)
    weights = (scores.float() - scores.max(-1, keepdim=True).values.float()).exp_()
    blocks = nn.functional.pad(weights, (0, -n_tokens % BLOCK)).view(n_rows, -1, BLOCK)
    block, rest = _passed(blocks.sum(-1).to(precision), uniform, None)
    chosen = blocks[torch.arange(n_rows, device=scores.device), block].to(precision)
    token, _ = _passed(chosen, uniform, rest)
    return (block * BLOCK + token).clamp(max=n_tokens - 1)


def _passed(weights: Tensor, uniform: Tensor, rest: Tensor | None) -> tuple[Tensor, Tensor]:
    """Where the summed weights [row, n] pass a number, and by how much it passes the sum before.

    The number is `rest`, or else a share of the sum. Below the sum, a weight of 0 is never passed.
    """
    summed = weights.cumsum(-1)
    total = summed[:, -1]
    number = uniform.to(summed) * total if rest is None else rest
    # Rounding can make the rest as large as the sum of its block.
    number = torch.minimum(number, torch.nextafter(total, torch.zeros_like(total)))[:, None]
    # Of weights that are not numbers, the last: they are detected elsewhere.
    index = torch.searchsorted(summed, number, right=True).clamp(max=weights.shape[-1] - 1)
    before = summed.gather(1, index) - weights.gather(1, index)
    return index[:, 0], (number - before).clamp(min=0)[:, 0]


def _precision(device: torch.device) -> torch.dtype:
    """float64, which a sum over a large vocabulary needs; float32 on Metal, which has no other."""
    return torch.float32 if device.type == "mps" else torch.float64


class NanDetector:
    """Logits processor that changes nothing, and detects NaN.

    An overflow becomes infinite somewhere, and NaN after the next norm, in every logit of the row:
    so one logit per row is checked, and only at the end, so that no step waits for the device.
    """

    def __init__(self) -> None:
        self._broken: Tensor | None = None

    def __call__(self, _ids: Tensor, scores: Tensor) -> Tensor:
        broken = scores[:, 0].isnan().any()
        self._broken = broken if self._broken is None else self._broken | broken
        return scores

    def check(self, model: Model) -> None:
        """
        Raises:
            HookError: some logits were NaN.
        """
        if self._broken is not None and bool(self._broken):
            raise not_numbers(model)


class Stops:
    """Stopping criterion: which rows have generated a stop string since column `start`.

    Hugging Face's own decodes every token of the vocabulary separately, which fails for some
    tokenizers and takes seconds for a large one. This decodes only the last tokens that could hold
    the longest string, at four tokens per character; if they hold one, it confirms it in the whole
    text.
    """

    def __init__(self, model: Model, stop: Sequence[str], start: int) -> None:
        self._model, self._stop, self._start = model, stop, start
        self._reach = 4 * max(map(len, stop), default=0) + 16
        self.done: Tensor | None = None

    def __call__(self, ids: Tensor, _scores: Tensor, **_: object) -> Tensor:
        done = [self.contains_stop(row) for row in ids[:, self._start :].tolist()]
        stopped = torch.tensor(done, device=ids.device)
        self.done = stopped if self.done is None else self.done | stopped
        return stopped

    def contains_stop(self, ids: Sequence[int]) -> bool:
        """Whether the text of these new token ids contains a stop string."""
        if not self._stop:
            return False
        tail = ids[-self._reach :]
        return self._in(tail) and (len(tail) == len(ids) or self._in(ids))

    def _in(self, ids: Sequence[int]) -> bool:
        text = self._model.decode(ids)
        return any(word in text for word in self._stop)


class StopOnTrip:
    """Stopping criterion: rows whose newest token trips a guard; all rows if that is an error.

    Tokens after the end of a text do not trip guards. `stops` has to run before this one.
    """

    def __init__(
        self, watch: Watch, end_ids: frozenset[int], start: int, stops: Stops | None
    ) -> None:
        self._watch, self._start, self._stops = watch, start, stops
        self._guards = [guard for guard in watch.guards if guard.on_trip != "ablate"]
        self._end_ids = torch.tensor(sorted(end_ids), dtype=torch.int64)
        self._none: Tensor | None = None  # most often no row stops
        #: For each stopped row: the guard, and the index of the new token.
        self.tripped: dict[int, tuple[Guard, int]] = {}

    def __call__(self, ids: Tensor, _scores: Tensor, **_: object) -> Tensor:
        step = ids.shape[1] - self._start - 1
        if self._none is None:
            self._none = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        stops = self._none
        for guard in self._guards:
            trips = self._watch.tripped(guard, step)
            if not trips:
                continue
            ended = self._ended(ids).tolist()
            stops = stops.clone()
            for row in trips:
                if ended[row]:
                    continue
                self.tripped[row] = guard, step
                stops[row] = True
                if guard.on_trip == "error":
                    return torch.ones_like(stops)
        return stops

    def _ended(self, ids: Tensor) -> Tensor:
        """Rows that ended before their newest token was checked, bool [row]."""
        ended = torch.isin(ids[:, self._start :], self._end_ids.to(ids.device)).any(1)
        ended[list(self.tripped)] = True
        if self._stops is not None and self._stops.done is not None:
            ended |= self._stops.done
        return ended


class Streamer:
    """Gets the tokens of `generate`: first the prompt, then one at a time.

    Tokens that arrive faster than a terminal shows them are decoded together, since decoding each
    one takes a noticeable share of a small model's time.
    """

    def __init__(
        self,
        model: Model,
        stop: Sequence[str],
        on_text: Callable[[str], None],
        trips: StopOnTrip | None,
        nan_detector: NanDetector,
    ) -> None:
        self._model, self._nan_detector = model, nan_detector
        self._deltas = TextDeltas(model.decode, stop)
        self._end_ids = model.end_ids
        self._on_text = on_text
        self._trips = trips
        self._step = -1
        self._waiting: list[Tensor] = []
        self._last = -math.inf

    def put(self, tokens: Tensor) -> None:
        self._step += 1
        if self._step and not self._is_cut_off(self._step - 1):
            self._waiting.append(tokens[:1])  # all rows of a guided prompt get the same token
            now = time.monotonic()
            if now - self._last >= PAUSE:
                self._last = now
                self._on_text(self._flushed())

    def _flushed(self) -> str:
        """The text of the waiting tokens, without end tokens.

        Raises:
            HookError: their logits were NaN.
        """
        self._nan_detector.check(self._model)
        tokens = [int(token) for token in self._waiting]
        pieces = [self._deltas.push(token) for token in tokens if token not in self._end_ids]
        self._waiting.clear()
        return "".join(pieces)

    def _is_cut_off(self, token: int) -> bool:
        tripped = self._trips.tripped.get(0) if self._trips else None
        return tripped is not None and token >= tripped[1]

    def end(self) -> None:
        self._on_text(self._flushed() + self._deltas.finish())
