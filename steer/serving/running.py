"""Starts the server on Hugging Face, and keeps it up until it is interrupted."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import uvicorn

from steer.base.errors import HookError
from steer.models.model import Model
from steer.serving.app import build, hand_on
from steer.serving.asked import Shelf
from steer.serving.gate import Gate
from steer.serving.hosting import Host

#: Seconds that answers have to end in when the server is stopped.
_LAST = 3


def serve(
    model: Model,
    shelf: Shelf,
    at: socket.socket,
    *,
    api_key: str | None,
    log: Callable[[str], None],
    on_up: Callable[[], None],
) -> None:
    """Answer requests until the process is interrupted.

    Raises:
        HookError: steers change nothing in what it answers.
    """
    with Host(model, log) as model_thread:
        app = build(model, model_thread, int(time.time()))
        gate = Gate(app, shelf, hand_on, api_key=api_key, on_up=on_up)
        config = uvicorn.Config(
            gate, lifespan="on", log_level="critical", timeout_graceful_shutdown=_LAST
        )
        try:
            uvicorn.Server(config).run(sockets=[at])
        except SystemExit:  # so it ends where it does not start
            raise HookError(
                gate.failure or "the server does not start", hint="steer doctor -m MODEL says more"
            ) from None
