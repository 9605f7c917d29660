"""`steer serve` without a socket: its application, in this process."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import pytest

from steer.models.model import Model
from steer.serving import pages
from steer.serving.app import build, hand_on
from steer.serving.batching import Batcher
from steer.serving.library import Library
from steer.serving.metrics import Metrics
from steer.serving.middleware import Access, SteeringMiddleware
from steer.vectors.vector import SteeringVector


class Here:
    """A server for as long as a block runs."""

    def __init__(
        self,
        model: Model,
        library: Library,
        access: Access | None = None,
        folder: Path | None = None,
    ) -> None:
        self._model, self._library, self._access = model, library, access or Access()
        self._folder = folder

    def __enter__(self) -> Here:
        self._batcher = Batcher(self._model, pytest.fail)
        app = build(self._model, self._batcher, self._library, Metrics(), 0, self._folder)
        self._app = SteeringMiddleware(
            app,
            self._library,
            hand_on,
            access=self._access,
            served=self._model.identity.id,
            about=pages.about(self._model, makes=self._folder is not None),
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._batcher.__exit__(kind, error, trace)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self._ask("GET", path, **options)

    def post(self, path: str, body: dict[str, Any], **options: Any) -> httpx.Response:
        return self._ask("POST", path, json=body, **options)

    def stream(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The events of an answer that is asked to be streamed."""
        return self.events(path, body | {"stream": True})

    def events(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The events of a streamed answer."""
        answer = self.post(path, body)
        assert answer.status_code == 200, answer.text
        data = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        assert data[-1] == "[DONE]"
        return [json.loads(token) for token in data[:-1]]

    def at_once(self, path: str, bodies: list[dict[str, Any]]) -> list[httpx.Response]:
        """The answers to requests that are made at the same time."""

        async def run() -> list[httpx.Response]:
            async with self.client() as client:
                return await asyncio.gather(*(client.post(path, json=body) for body in bodies))

        return asyncio.run(run())

    def client(self) -> httpx.AsyncClient:
        """A client for an event loop of one's own."""
        transport = httpx.ASGITransport(app=self._app)  # type: ignore[arg-type]
        return httpx.AsyncClient(transport=transport, base_url="http://localhost")

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def run() -> httpx.Response:
            async with self.client() as client:
                return await client.request(method, path, **options)

        return asyncio.run(run())


def post(
    model: Model, vectors: dict[str, SteeringVector], path: str, body: dict[str, Any]
) -> httpx.Response:
    """The answer of a server with these vectors."""
    with Here(model, Library(dict(vectors))) as server:
        return server.post(path, body)
