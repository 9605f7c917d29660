"""Limits on requests, so that no client blocks the others. No torch."""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from steer.serving.errors import RequestError

Result = TypeVar("Result")

#: The most bytes of a body, and those of a body small enough to parse in the event loop.
MAX_BODY = 4_000_000
SMALL_BODY = 50_000
#: The most fields of a body, and the longest name.
MOST_FIELDS, LONGEST_NAME = 100, 100
#: The most commas, brackets and quotes of a body, which bound the time and memory of its JSON.
MOST_MARKS = {",": 500_000, "[": 20_000, "{": 20_000, '"': 100_000}
#: Continuations of one request, prompts times `n`.
MOST_CHOICES = 128
#: Log-probabilities in one answer: choices times tokens times those of a token.
MOST_LOGPROBS = 500_000
#: Logits of an echoed prompt: tokens times vocabulary.
MOST_LOGITS = 500_000_000
#: Requests in progress or waiting.
MOST_REQUESTS = 256
MOST_CONNECTIONS = 512
#: Timeouts in seconds for the head of a request, for its body, and for a client to read.
HEAD_SECONDS, BODY_SECONDS, SEND_SECONDS = 10.0, 60.0, 60.0
#: Timeout in seconds for the chat template and the tokenizer.
PREPARE_SECONDS = 10.0


class _Timeout(BaseException):
    """Raised in a thread whose time is up, by the thread that waits for it."""


class TimedThreads:
    """A pool of threads with a time limit, for work that would block the event loop and may never
    end, such as a chat template with an infinite loop."""

    def __init__(self, n_threads: int = 2) -> None:
        self._pool = ThreadPoolExecutor(n_threads, thread_name_prefix="prepare")

    async def run(
        self, function: Callable[[], Result], activity: str, seconds: float | None = None
    ) -> Result:
        """Run `function` and return its result. activity: its name for the message.

        Raises:
            RequestError: it takes too long.
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
        except _Timeout:
            raise RequestError(
                f"{activity} takes more than {seconds:g} seconds", code="timeout"
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
        """Raise an exception in its thread, at the next bytecode."""
        with self._lock:
            if self._thread is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread), ctypes.py_object(_Timeout)
                )
