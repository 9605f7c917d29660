"""How much one client may ask of the server, so that none keeps the others waiting. No torch."""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from steer.serving.errors import RequestError

Result = TypeVar("Result")

#: Bytes of a body; as many are read at once without leaving the event loop.
MAX_BODY = 4_000_000
SMALL_BODY = 50_000
#: Fields of a body, and the length of a name.
MOST_FIELDS, LONGEST_NAME = 100, 100
#: Commas, brackets and quotes of a body: what its JSON takes in time and memory.
MOST_MARKS = {",": 500_000, "[": 20_000, "{": 20_000, '"': 100_000}
#: Continuations of one request, prompts times `n`.
MOST_CHOICES = 128
#: Log-probabilities in one answer: choices times tokens times those of a token.
MOST_LOGPROBS = 500_000
#: Logits of a prompt that is reported: tokens times vocabulary.
MOST_LOGITS = 500_000_000
#: Requests that are being answered or wait.
MOST_REQUESTS = 256
MOST_CONNECTIONS = 512
#: Seconds for the head of a request, for its body, and until a client reads what it is sent.
HEAD_SECONDS, BODY_SECONDS, SEND_SECONDS = 10.0, 60.0, 60.0
#: Seconds for a chat template and the tokenizer.
PREPARE_SECONDS = 10.0


class _TookTooLong(BaseException):
    """Raised inside a thread by the one that waits for it."""


class Preparing:
    """Threads for what takes long enough to hold up the event loop, and may never end by itself,
    such as a chat template that loops."""

    def __init__(self, n_threads: int = 2) -> None:
        self._pool = ThreadPoolExecutor(n_threads, thread_name_prefix="prepare")

    async def run(
        self, function: Callable[[], Result], what: str, seconds: float | None = None
    ) -> Result:
        """What `function` returns.

        Raises:
            RequestError: it takes longer than that; `what` names it.
        """
        seconds = PREPARE_SECONDS if seconds is None else seconds
        task = _Task(function)
        future = asyncio.get_running_loop().run_in_executor(self._pool, task)
        while True:
            done, _ = await asyncio.wait([future], timeout=seconds)
            if done:
                break
            task.interrupt()
        try:
            return future.result()  # type: ignore[return-value]
        except _TookTooLong:
            raise RequestError(
                f"{what} takes more than {seconds:g} seconds", code="timeout"
            ) from None

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Task:
    """A function that another thread can interrupt while it runs."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function, self._lock = function, threading.Lock()
        self._thread: int | None = None

    def __call__(self) -> object:
        with self._lock:
            self._thread = threading.get_ident()
        try:
            return self._function()
        finally:
            with self._lock:
                self._thread = None

    def interrupt(self) -> None:
        """Raise in its thread, at the next step of Python's."""
        with self._lock:
            if self._thread is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread), ctypes.py_object(_TookTooLong)
                )
