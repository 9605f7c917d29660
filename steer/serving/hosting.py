"""A model in a thread of its own, which does what is ordered in turn and tells of each token.

Steers are hooks on the one model that there is, so what is steered otherwise cannot run with it at
once: orders wait for each other. The rows of one order run together.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import traceback
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from steer.base.text import TextDeltas
from steer.generate.batch import Batch
from steer.models.model import Model
from steer.serving.answers import End, Piece, Token
from steer.serving.refused import RequestError, request_error
from steer.steering.generation import Finish, Row, Sampling
from steer.steering.steers import Steer

#: How many orders wait at most; a client that comes after them is told to try again.
MOST_WAITING = 64
#: Seconds after which a thread with nothing to do looks whether it is to end.
_LOOK = 0.2
#: OpenAI's number for no chance at all: JSON has no infinity.
_NEVER = -9999.0

_FINISH: dict[Finish, Literal["stop", "length"]] = {
    "end": "stop",
    "stop": "stop",
    "guard": "stop",
    "length": "length",
}
Event = Piece | End


@dataclass(frozen=True)
class Order:
    """Rows to be continued. top: of how many tokens a step log-probabilities are told, besides the
    one that is taken; None tells none.
    """

    rows: Sequence[Row]
    steers: Sequence[Steer]
    sampling: Sampling
    top: int | None = None


@dataclass
class Job:
    """An order under way. gone: nobody waits for it any more."""

    order: Order
    loop: asyncio.AbstractEventLoop
    events: asyncio.Queue[Event | RequestError | None] = field(default_factory=asyncio.Queue)
    gone: threading.Event = field(default_factory=threading.Event)

    async def told(self) -> AsyncGenerator[Event, None]:
        """What happens, until all rows are over.

        Raises:
            RequestError: it cannot be done.
        """
        try:
            while (event := await self.events.get()) is not None:
                if isinstance(event, RequestError):
                    raise event
                yield event
        finally:
            self.gone.set()

    def leave(self) -> None:
        """Let go of it, from the loop's thread: nothing more is told."""
        self.gone.set()
        self.events.put_nowait(None)

    def tell(self, event: Event | RequestError | None) -> None:
        """From the model's thread."""
        if not self.gone.is_set():
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)


class Host:
    """The thread. log: is told of bugs."""

    def __init__(self, model: Model, log: Callable[[str], None]) -> None:
        self._model, self._log = model, log
        self._jobs: queue.Queue[Job] = queue.Queue(MOST_WAITING)
        self._doing: Job | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        """End what is being done at its next token: torch aborts a process that leaves it so."""
        self._closed.set()
        if (job := self._doing) is not None:
            job.gone.set()
        self._thread.join()

    def order(self, order: Order) -> Job:
        """Begin; from within an event loop.

        Raises:
            RequestError: too many wait.
        """
        job = Job(order, asyncio.get_running_loop())
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise RequestError(
                "too many requests wait; try again later", 503, code="busy"
            ) from None
        return job

    def _work(self) -> None:
        while not self._closed.is_set():
            try:
                job = self._doing = self._jobs.get(timeout=_LOOK)
            except queue.Empty:
                continue
            try:
                self._do(job)
                job.tell(None)
            except Exception as error:  # whatever it is, the next one has its turn
                job.tell(self.told_of(error))

    def told_of(self, error: Exception) -> RequestError:
        """What a client is told of an error, which the log gets where it is a bug."""
        told = request_error(error)
        if told.status == 500:
            self._log("".join(traceback.format_exception(error)))
        return told

    def _do(self, job: Job) -> None:
        order = job.order
        size = order.sampling.batch_size
        for start in range(0, len(order.rows), size):
            if job.gone.is_set() or self._closed.is_set():
                return
            rows = order.rows[start : start + size]
            told = _Told(self._model, order, job, start, len(rows))
            made = Batch(self._model, rows, order.steers, order.sampling, listener=told)
            for index, one in enumerate(made.generations()):
                told.finish(index, one.n_tokens)
                job.tell(End(start + index, _FINISH[one.finish], one.n_tokens))


class _Told:
    """Tells a job of each token of a batch, the first row of which is choice `first`."""

    def __init__(self, model: Model, order: Order, job: Job, first: int, n_rows: int) -> None:
        self._model, self._top, self._job, self._first = model, order.top, job, first
        stop = order.sampling.stop
        self._deltas = [TextDeltas(model.decode, stop) for _ in range(n_rows)]
        self._tokens: list[list[Token]] = [[] for _ in range(n_rows)]
        self._n_told = [0] * n_rows
        self._over = [False] * n_rows
        self._log_probs: Tensor | None = None

    def scores(self, ids: Tensor, scores: Tensor) -> Tensor:
        if self._top is not None:
            self._log_probs = scores.float().log_softmax(-1)
        return scores

    def heard(self, ids: Tensor, scores: Tensor, **_: object) -> Tensor:
        for row, token in enumerate(ids[:, -1].tolist()):
            self._over[row] = self._over[row] or token in self._model.end_ids
            if self._over[row]:
                continue
            if self._log_probs is not None:
                self._tokens[row].append(self._described(self._log_probs[row], token))
            if piece := self._deltas[row].push(token):
                self._tell(row, piece, len(self._tokens[row]))
        return torch.full((len(ids),), self._job.gone.is_set(), device=ids.device)

    def finish(self, row: int, n_tokens: int) -> None:
        """Tell what was held back of a text of so many tokens."""
        piece = self._deltas[row].finish()
        if piece or self._n_told[row] < min(n_tokens, len(self._tokens[row])):
            self._tell(row, piece, n_tokens)

    def _tell(self, row: int, piece: str, n_tokens: int) -> None:
        tokens = tuple(self._tokens[row][self._n_told[row] : n_tokens])
        self._n_told[row] += len(tokens)
        self._job.tell(Piece(self._first + row, piece, tokens))

    def _described(self, log_probs: Tensor, token: int) -> Token:
        values, ids = log_probs.topk(min(self._top or 0, len(log_probs)))
        top = zip(ids.tolist(), values.tolist(), strict=True)
        return Token(
            self._model.token(token),
            max(float(log_probs[token]), _NEVER),
            tuple((self._model.token(one), max(value, _NEVER)) for one, value in top),
        )
