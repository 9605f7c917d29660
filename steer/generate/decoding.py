"""What is our own in Hugging Face's `generate`: how tokens are drawn, and what ends a text."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from steer.base.text import TextDeltas
from steer.hooks.watch import Watch
from steer.models.model import Model
from steer.models.numbers import not_numbers
from steer.steering.projection import Guard

#: Seconds between pieces of streamed text, at least.
PAUSE = 0.02


@contextmanager
def nothing_else(model: Model) -> Iterator[None]:
    """For the block `generate` has no settings of the checkpoint's own but what ends a text.

    Many a chat model brings a penalty on repetition, say: its texts are then not drawn from what
    the model, steered, says; and that is what is scored, and what engines draw from.
    """
    network, own = model.network, model.network.generation_config
    ends = sorted(model.end_ids) or None
    network.generation_config = type(own)(eos_token_id=ends, use_cache=own.use_cache)
    try:
        yield
    finally:
        network.generation_config = own


class Draw:
    """Logits processor that draws a token for each row and leaves it alone possible.

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

    scores: logits [row, vocabulary]. uniform: [row].
    """
    summed = scores.softmax(-1, dtype=_precision(scores.device)).cumsum(-1)
    draw = uniform.to(summed)[:, None] * summed[:, -1:]
    found = torch.searchsorted(summed, draw, right=True).clamp(max=scores.shape[-1] - 1)
    return found[:, 0]


def _precision(device: torch.device) -> torch.dtype:
    """Metal has no float64; elsewhere a vocabulary of 200,000 deserves it."""
    return torch.float32 if device.type == "mps" else torch.float64


class Sound:
    """Logits processor that changes nothing, and remembers whether logits were numbers.

    What is too large for the model's precision becomes infinite somewhere, and NaN behind the next
    norm, in every logit of its row: one is looked at, and only afterwards, so no step waits for it.
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
            HookError: some were not.
        """
        if self._broken is not None and bool(self._broken):
            raise not_numbers(model)


class Stops:
    """Stopping criterion: which rows have written a stop string since column `start`.

    Hugging Face's own reads each token of the vocabulary by itself, which fails for tokenizers that
    do not write their tokens in a row, and takes seconds for a large one. The last tokens are
    looked at: those that can hold the longest string, of four to a character and some that say
    nothing. Where they seem to hold one, the whole text has the last word.
    """

    def __init__(self, model: Model, stop: Sequence[str], start: int) -> None:
        self._model, self._stop, self._start = model, stop, start
        self._reach = 4 * max(map(len, stop), default=0) + 16
        self.done: Tensor | None = None

    def __call__(self, ids: Tensor, _scores: Tensor, **_: object) -> Tensor:
        done = [self.written(row) for row in ids[:, self._start :].tolist()]
        found = torch.tensor(done, device=ids.device)
        self.done = found if self.done is None else self.done | found
        return found

    def written(self, ids: Sequence[int]) -> bool:
        """Whether a stop string is in the text of new token ids, or was not a token ago."""
        if not self._stop:
            return False
        tail = ids[-self._reach :]
        return self._in(tail) and (len(tail) == len(ids) or self._in(ids))

    def _in(self, ids: Sequence[int]) -> bool:
        text = self._model.decode(ids)
        return any(word in text for word in self._stop)


class StopOnTrip:
    """Stopping criterion: rows whose newest token trips a guard; all rows where that is an error.

    A text that has ended trips no guard: what a model writes behind its end is not shown. `stops`
    is asked before this one.
    """

    def __init__(
        self, watch: Watch, end_ids: frozenset[int], start: int, stops: Stops | None
    ) -> None:
        self._watch, self._start, self._stops = watch, start, stops
        self._guards = [guard for guard in watch.guards if guard.on_trip != "ablate"]
        self._end_ids = torch.tensor(sorted(end_ids), dtype=torch.int64)
        self._none: Tensor | None = None  # most often no row stops
        #: Of each row that was stopped: by which guard, and at which new token.
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
        """Rows that were over before a guard looked at their newest token, bool [row]."""
        ended = torch.isin(ids[:, self._start :], self._end_ids.to(ids.device)).any(1)
        ended[list(self.tripped)] = True
        if self._stops is not None and self._stops.done is not None:
            ended |= self._stops.done
        return ended


class Streamer:
    """What `generate` tells each token to: first the prompt, then one at a time.

    Tokens that come faster than a terminal shows them, as a small model writes them, are decoded
    and given out together: one by one that takes a share of the model's own time.
    """

    def __init__(
        self,
        model: Model,
        stop: Sequence[str],
        on_text: Callable[[str], None],
        trips: StopOnTrip | None,
        sound: Sound,
    ) -> None:
        self._model, self._sound = model, sound
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
            self._waiting.append(tokens[:1])  # all rows of a guided prompt go on alike
            now = time.monotonic()
            if now - self._last >= PAUSE:
                self._last = now
                self._on_text(self._come())

    def _come(self) -> str:
        """The text of what has waited. An end that is no special token would have one.

        Raises:
            HookError: its logits were not numbers.
        """
        self._sound.check(self._model)
        tokens = [int(token) for token in self._waiting]
        pieces = [self._deltas.push(token) for token in tokens if token not in self._end_ids]
        self._waiting.clear()
        return "".join(pieces)

    def _is_cut_off(self, token: int) -> bool:
        tripped = self._trips.tripped.get(0) if self._trips else None
        return tripped is not None and token >= tripped[1]

    def end(self) -> None:
        self._on_text(self._come() + self._deltas.finish())
