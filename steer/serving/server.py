"""Run the server on Hugging Face until it is interrupted."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn

from steer.base.errors import HookError
from steer.models.model import Model
from steer.serving import pages
from steer.serving.app import build, hand_on
from steer.serving.batching import Batcher
from steer.serving.connections import Connection
from steer.serving.library import Library
from steer.serving.metrics import Metrics
from steer.serving.middleware import Access, SteeringMiddleware

#: Seconds that running answers get to end when the server is stopped.
_GRACE_SECONDS = 3


def run(
    model: Model,
    library: Library,
    at: socket.socket,
    *,
    access: Access,
    source: str,
    folder: Path,
    log: Callable[[str], None],
    log_request: Callable[[str], None],
    on_up: Callable[[], None],
) -> None:
    """Answer requests until the process is interrupted.

    source: the model as commands name it. folder: for vectors that are made on the page. Both are
    only for clients on this machine. log: called with the traceback of a bug, and with a line for
    each vector that is left out. log_request: called with a line for each request, without its
    texts. on_up: called once the server answers.

    Raises:
        HookError: steers do not change the server's answers.
    """
    metrics = Metrics()
    with Batcher(model, log, metrics) as batcher:
        makes_in = folder if access.local else None
        app = build(model, batcher, library, metrics, int(time.time()), makes_in)
        about = pages.about(model)
        if access.local:
            about = pages.about(model, makes=True, source=source, folder=folder)
        front = SteeringMiddleware(
            app,
            library,
            hand_on,
            access=access,
            served=model.identity.id,
            about=about,
            metrics=metrics,
            log=log,
            log_request=log_request,
            on_up=on_up,
        )
        config = uvicorn.Config(
            front,
            lifespan="on",
            log_level="critical",
            http=Connection,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        try:
            _until_interrupted(uvicorn.Server(config), at)
        except SystemExit:  # uvicorn's way to report that the start failed
            raise HookError(
                front.failure or "the server does not start", hint="steer doctor -m MODEL says more"
            ) from None


def _until_interrupted(server: uvicorn.Server, at: socket.socket) -> None:
    """Run a server; in a thread, if this one runs an event loop already, as in a notebook.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; the server has ended.
        SystemExit: the server does not start.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        server.run(sockets=[at])
        return
    with ThreadPoolExecutor(1, thread_name_prefix="serve") as pool:
        future = pool.submit(server.run, sockets=[at])
        try:
            future.result()
        finally:
            server.should_exit = True
