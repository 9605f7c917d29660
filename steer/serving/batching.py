"""Continuous batching in a thread that generates the texts of all requests together.

Each forward gives every running text a token, whatever its steers (`steer.generate.together`). A
text that has ended, or whose client has disconnected, leaves at once. If there are more texts than
can run together, requests take turns: the one with the fewest running texts comes first, and texts
of one with many are paused.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import traceback
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from torch import Tensor, nn

from steer.base.text import TextDeltas
from steer.generate.cost import CostMeter
from steer.generate.together import Continuation, RunningTexts
from steer.models.memory import cached_tokens, ran_out, token_budget
from steer.models.model import Model
from steer.serving import limits
from steer.serving.errors import RequestError, request_error
from steer.serving.library import Steering
from steer.serving.metrics import Metrics
from steer.serving.responses import ChoiceEnd, Piece, Token
from steer.steering.generation import Finish, Row, Sampling

#: The most rows that run together. A text has one, or more if it is guided or its cost measured.
MOST_RUNNING = 32
#: The most other jobs on the model that may wait.
MOST_WORK = 4
#: Tokens of a text before it can be paused for a request with fewer running texts.
TURN = 16
#: New tokens for which memory is reserved when a text starts; few texts reach their maximum.
AHEAD = 512
#: Seconds between an idle thread's checks whether to end.
_CHECK_SECONDS = 0.2
#: OpenAI's number for the log-probability of 0, since JSON has no infinity.
_LOG_ZERO = -9999.0

_FINISH: dict[Finish, Literal["stop", "length"]] = {
    "end": "stop",
    "stop": "stop",
    "guard": "stop",
    "length": "length",
}
Event = Piece | ChoiceEnd
#: Other work on the model calls it between its steps, to generate tokens for requests.
Between = Callable[[], None]
Result = TypeVar("Result")


class WorkAbandoned(BaseException):
    """Raised inside work whose result nobody waits for any more."""


@dataclass(frozen=True)
class Order:
    """Rows to continue.

    top: the number of likeliest tokens to report log-probabilities of, besides the sampled one;
    None reports none. streamed: report each token at once, not at the end. token_ids: report the
    ids of new tokens. prefill: token ids that each text begins with. echo: report the prompt's
    tokens before the text's, and the end token after them.
    """

    rows: Sequence[Row]
    steering: Steering
    sampling: Sampling
    top: int | None = None
    streamed: bool = True
    token_ids: bool = False
    prefill: Sequence[int] = ()
    echo: bool = False


@dataclass(eq=False)
class Job:
    """An order in progress. gone: set when its client no longer waits."""

    order: Order
    loop: asyncio.AbstractEventLoop
    received: asyncio.Queue[list[Event] | RequestError | None] = field(
        default_factory=asyncio.Queue
    )
    gone: threading.Event = field(default_factory=threading.Event)
    waiting: list[_Text] = field(default_factory=list)
    running: list[_Text] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    async def stream(self) -> AsyncGenerator[Event, None]:
        """The events, until all rows have ended.

        Raises:
            RequestError: the request failed.
        """
        try:
            while (received := await self.received.get()) is not None:
                if isinstance(received, RequestError):
                    raise received
                for event in received:
                    yield event
        finally:
            self.gone.set()

    def leave(self) -> None:
        """Abandon the job, from the loop's thread: no more events follow."""
        self.gone.set()
        self.received.put_nowait(None)

    def flush(self) -> None:
        """Send the collected events, from the model's thread."""
        if self.events:
            self.send(self.events)
            self.events = []

    def send(self, received: list[Event] | RequestError | None) -> None:
        """Send events, an error or the end (None), from the model's thread."""
        if not self.gone.is_set():
            self.loop.call_soon_threadsafe(self.received.put_nowait, received)


class _Text:
    """A choice of a job, from its first token to its last."""

    def __init__(self, model: Model, job: Job, index: int) -> None:
        order = job.order
        self.job, self.index = job, index
        self.turn = 0  # tokens since it was started or resumed
        self._model, self._top = model, order.top
        self._watches = bool(order.steering.watched)
        reports = self._top is not None or order.token_ids or order.echo
        self._describes = reports or self._watches
        self._deltas = TextDeltas(model.decode, order.sampling.stop)
        self._tokens: list[Token] = []
        self._n_reported = self._n_echoed = 0
        steering = order.steering
        self._cost = CostMeter() if steering.cost else None
        strengths = [guide.strength for guide in steering.guides]
        self.continuation = Continuation(
            model,
            order.rows[index],
            steering.steers,
            order.sampling,
            steering.watched,
            steering.guards,
            self._on_token,
            strengths=strengths,
            prefill=order.prefill,
            plain=steering.cost and bool(steering.steers or steering.guards or strengths),
            on_prompt=self._on_prompt if order.echo else None,
        )

    @property
    def n_rows(self) -> int:
        """The number of its rows in a forward."""
        return len(self.continuation.runs)

    @property
    def room(self) -> int:
        """The tokens to reserve in the cache."""
        text = self.continuation
        ahead = min(text.sampling.max_tokens - len(text.new), AHEAD)
        return text.length + self.n_rows * ahead

    def _on_prompt(self, logits: Tensor) -> None:
        """Report the prompt's tokens; the first has no log-probability."""
        ids = self.continuation.prompt
        self._tokens.append(Token(ids[0], self._model.token(ids[0]), None))
        self._tokens += map(self._described, ids[1:], logits)
        self._n_echoed = len(ids)
        self._emit(self._model.decode(ids), len(ids))

    def _on_token(self, token: int, logits: Tensor, plain: Tensor | None) -> None:
        if self._cost is not None:
            self._cost.add(logits, logits if plain is None else plain)
        if self._describes:
            self._tokens.append(self._described(token, logits))
        if piece := self._deltas.push(token):
            self._emit(piece, len(self._tokens))

    def finish(self) -> None:
        """Emit the remaining text and the end.

        Raises:
            GuardError: a guard with `on_trip` error tripped.
        """
        text = self.continuation
        generation = text.generation()
        cost = None if self._cost is None else self._cost.cost(text.new[: generation.n_tokens])
        piece = self._deltas.finish()
        n_tokens = self._n_echoed + generation.n_tokens
        if self._n_echoed and generation.finish == "end":
            n_tokens += 1
        if piece or self._n_reported < min(n_tokens, len(self._tokens)):
            self._emit(piece, n_tokens)
        self.job.events.append(
            ChoiceEnd(
                self.index,
                _FINISH[generation.finish],
                generation.n_tokens,
                tuple(generation.gates),
                tuple(generation.trips),
                tuple(generation.idle),
                cost,
            )
        )

    def _emit(self, piece: str, n_tokens: int) -> None:
        tokens = tuple(self._tokens[self._n_reported : n_tokens])
        self._n_reported += len(tokens)
        self.job.events.append(Piece(self.index, piece, tokens))

    def _described(self, token: int, logits: Tensor) -> Token:
        text = self._model.token(token)
        watched = tuple(self.continuation.newest_projections()) if self._watches else ()
        if self._top is None:
            return Token(token, text, 0.0, (), watched)
        log_probs = logits.log_softmax(-1)
        values, ids = log_probs.topk(min(self._top, len(log_probs)))
        top = zip(ids.tolist(), values.tolist(), strict=True)
        return Token(
            token,
            text,
            max(float(log_probs[token]), _LOG_ZERO),
            tuple((id_, self._model.token(id_), max(value, _LOG_ZERO)) for id_, value in top),
            watched,
        )


class Batcher:
    """Runs the model in a thread of its own. log: called with the traceback of a bug."""

    def __init__(
        self, model: Model, log: Callable[[str], None], metrics: Metrics | None = None
    ) -> None:
        self._model, self._log = model, log
        self._metrics = metrics or Metrics()
        self._metrics.gauge("steer_texts_running", lambda: sum(len(j.running) for j in self._jobs))
        self._metrics.gauge("steer_texts_waiting", lambda: sum(len(j.waiting) for j in self._jobs))
        self._arrived: queue.Queue[Job] = queue.Queue()
        self._work: queue.Queue[tuple[Callable[[Between], Any], Future[Any]]] = queue.Queue()
        self._jobs: list[Job] = []
        self._begun: set[_Text] = set()  # texts with a cache, running or parked
        self._together = RunningTexts(model)
        self._budget, self._room = token_budget(model), cached_tokens(model)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="model", daemon=True)
        self._thread.start()

    def __enter__(self) -> Batcher:
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread at the next token; torch aborts a process that exits without this."""
        self._closed.set()
        self._thread.join()

    def order(self, order: Order) -> Job:
        """Start an order, from within an event loop.

        Raises:
            RequestError: too many requests wait.
        """
        if len(self._jobs) + self._arrived.qsize() >= limits.MOST_REQUESTS:
            raise RequestError("too many requests; try again later", 503, code="busy")
        job = Job(order, asyncio.get_running_loop())
        self._arrived.put_nowait(job)
        return job

    def run(self, work: Callable[[Between], Result]) -> Future[Result]:
        """Run other work on the model in its thread.

        work: called with a function that it should call between its steps. This function generates
        a token of every text; if the future is cancelled or the server ends, it raises
        `WorkAbandoned`.

        Raises:
            RequestError: too much work waits.
        """
        if self._work.qsize() >= MOST_WORK:
            raise RequestError("other vectors are being made; try again later", 503, code="busy")
        future: Future[Result] = Future()
        self._work.put_nowait((work, future))
        return future

    def error(self, error: Exception) -> RequestError:
        """The error for the client; details of a bug go to the log."""
        if isinstance(error, RuntimeError) and ran_out(error):
            return RequestError("out of memory; request less, or later", 503, code="busy")
        refusal = request_error(error)
        if refusal is not None:
            return refusal
        self._log("".join(traceback.format_exception(error)))
        return RequestError("the server failed; see its log", 500)

    def _serve(self) -> None:
        while not self._closed.is_set():
            self._receive(wait=not self._jobs and self._work.empty())
            self._turn()
            with suppress(queue.Empty):
                self._run_work(*self._work.get_nowait())

    def _turn(self) -> None:
        """Generate one more token of every running text."""
        for job in [j for j in self._jobs if j.gone.is_set()]:
            self._drop(job)
        try:
            self._admit()
            self._together.step()
        except Exception as error:  # fails all running texts, but not those that wait
            self._together.clear()
            for job in [j for j in self._jobs if j.running]:
                self._fail(job, error)
        self._report()

    def _run_work(self, work: Callable[[Between], Any], future: Future[Any]) -> None:
        def between() -> None:
            if self._closed.is_set() or future.cancelled():
                raise WorkAbandoned
            if _is_hooked(self._model.network):  # its hooks would steer the texts of others
                return
            self._receive(wait=False)
            self._turn()

        try:
            between()
            result = work(between)
        except WorkAbandoned:
            future.cancel()
        except Exception as error:
            with suppress(InvalidStateError):  # cancelled meanwhile
                future.set_exception(error)
        else:
            with suppress(InvalidStateError):
                future.set_result(result)

    def _receive(self, *, wait: bool) -> None:
        """Receive new orders. wait: for the first one."""
        while True:
            try:
                job = (
                    self._arrived.get(timeout=_CHECK_SECONDS)
                    if wait
                    else self._arrived.get_nowait()
                )
            except queue.Empty:
                return
            wait = False
            try:
                indices = range(len(job.order.rows))
                job.waiting = [_Text(self._model, job, index) for index in indices]
            except Exception as error:  # ends only this order
                job.send(self.error(error))
                continue
            self._jobs.append(job)

    def _admit(self) -> None:
        """Start or resume the next texts."""
        chosen: list[_Text] = []
        n_tokens = 0
        while (text := self._next()) is not None and self._make_room(text, chosen):
            text.job.waiting.remove(text)
            self._begun.add(text)
            text.job.running.append(text)
            text.turn = 0
            chosen.append(text)
            n_tokens += 0 if text.continuation.new else len(text.continuation.prompt)
            if n_tokens >= self._budget:  # other texts get a token between two long prompts
                break
        if chosen:
            self._together.add([text.continuation for text in chosen])

    def _next(self) -> _Text | None:
        """The next text to run: the first of the request with the fewest running texts."""
        waiting = [job for job in self._jobs if job.waiting]
        if not waiting:
            return None
        return min(waiting, key=lambda job: len(job.running)).waiting[0]

    def _make_room(self, text: _Text, chosen: Sequence[_Text]) -> bool:
        """Whether a text can run now. If necessary, pauses a text of a request with more running
        texts."""
        running = [other for job in self._jobs for other in job.running]
        if running and text not in self._begun:
            taken = sum(other.room for other in self._begun)
            if taken + text.room > self._room:
                return False
        if not running or sum(other.n_rows for other in running) + text.n_rows <= MOST_RUNNING:
            return True
        fewest = len(text.job.running)
        pausable = [
            other
            for other in running
            if other.turn >= TURN
            and other not in chosen
            and (len(other.job.running) > fewest + 1 or (not fewest and other.turn >= 4 * TURN))
        ]
        if not pausable:
            return False
        paused = max(pausable, key=lambda other: (len(other.job.running), other.turn))
        self._together.park(paused.continuation)
        paused.job.running.remove(paused)
        # Before texts of its request that have not started, since this one takes memory.
        paused.job.waiting.insert(0, paused)
        return True

    def _report(self) -> None:
        """Report the events of the last forward."""
        for job in list(self._jobs):
            for text in list(job.running):
                text.turn += 1
                continuation = text.continuation
                if continuation.error is not None:
                    self._fail(job, continuation.error)
                    break
                if continuation.is_over:
                    job.running.remove(text)
                    self._begun.discard(text)
                    try:
                        text.finish()
                    except Exception as error:
                        self._fail(job, error)
                        break
                    self._count(text)
            else:
                is_over = not (job.running or job.waiting)
                if job.order.streamed or is_over:
                    job.flush()
                if is_over:
                    self._jobs.remove(job)
                    job.send(None)

    def _count(self, text: _Text) -> None:
        order, end = text.job.order, text.job.events[-1]
        assert isinstance(end, ChoiceEnd)
        self._metrics.add("steer_prompt_tokens_total", len(text.continuation.prompt))
        self._metrics.add("steer_generated_tokens_total", end.n_tokens)
        self._metrics.add("steer_steered_texts_total", bool(order.steering.steers))
        self._metrics.add("steer_idle_steers_total", len(end.idle))

    def _fail(self, job: Job, error: Exception) -> None:
        job.send(self.error(error))
        self._drop(job)

    def _drop(self, job: Job) -> None:
        if job not in self._jobs:
            return
        self._jobs.remove(job)
        for text in [*job.running, *job.waiting]:
            self._begun.discard(text)
            self._together.remove(text.continuation)


def _is_hooked(network: nn.Module) -> bool:
    """Whether a network has hooks, which would act on other texts too."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
