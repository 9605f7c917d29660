"""`steer serve` without a socket: one request to its application, in this process."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from steer.models.model import Model
from steer.serving.app import build, hand_on
from steer.serving.batching import Batcher
from steer.serving.library import Library
from steer.serving.metrics import Metrics
from steer.serving.middleware import Access, SteeringMiddleware
from steer.vectors.vector import SteeringVector


def post(
    model: Model, vectors: dict[str, SteeringVector], path: str, body: dict[str, Any]
) -> httpx.Response:
    """The answer of a server with these vectors."""

    async def run(app: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post(path, json=body)

    library = Library(dict(vectors))
    with Batcher(model, pytest.fail) as batcher:
        app = build(model, batcher, library, Metrics(), created=0)
        served = model.identity.id
        return asyncio.run(
            run(SteeringMiddleware(app, library, hand_on, access=Access(None), served=served))
        )
