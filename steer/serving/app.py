"""The server on Hugging Face: OpenAI's API for one model, steered by hooks."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from steer.base.errors import ModelError
from steer.contrasts.passages import Message
from steer.models.model import Model
from steer.serving import requests
from steer.serving.answers import Answer, sse
from steer.serving.hosting import Host, Job, Order
from steer.serving.refused import RequestError
from steer.steering.generation import Row, Sampling
from steer.steering.steers import Steer

#: New tokens of a completion, as OpenAI has it, and of an answer where the model names no context.
_USUAL, _UNKNOWN = 16, 4096
_MOST_CHOICES = 128
#: Below it, dividing by a temperature overflows.
_COLD = 1e-4
#: Seconds between two looks at whether a client still waits.
_PATIENCE = 0.5
#: Where `Gate` puts the steers of a request.
STEERS = "steer.steers"


def hand_on(body: dict[str, Any], steers: list[Steer], scope: Any) -> dict[str, Any]:
    """As `Gate` has it: in this process steers go as they are."""
    scope[STEERS] = steers
    return body


def build(model: Model, host: Host, created: int) -> FastAPI:
    """The application, for `Gate` to stand before. created: when it was started."""
    app = FastAPI(title="steer", openapi_url=None)
    served = model.identity.id
    known = {"id": served, "object": "model", "created": created, "owned_by": "steer"}

    @app.exception_handler(RequestError)
    async def refused(_request: Request, refusal: RequestError) -> Response:
        return JSONResponse(refusal.body, refusal.status)

    @app.exception_handler(Exception)
    async def failed(_request: Request, error: Exception) -> Response:
        told = host.told_of(error)
        return JSONResponse(told.body, told.status)

    @app.get("/health")
    async def health() -> Response:
        return Response()

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [known]})

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        asked = requests.read(await request.body(), requests.Completion, served)
        ids = [
            model.encode(prompt) if isinstance(prompt, str) else list(prompt)
            for prompt in asked.prompts
        ]
        wanted = asked.max_tokens or _USUAL
        return await _answered(request, model, host, asked, ids, wanted)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        asked = requests.read(await request.body(), requests.Chat, served)
        ids = [model.encode(_in_template(model, asked), special=False)]
        wanted = asked.max_completion_tokens or asked.max_tokens
        if wanted is None:
            wanted = (model.context or len(ids[0]) + _UNKNOWN) - len(ids[0])
        return await _answered(request, model, host, asked, ids, max(wanted, 1))

    return app


def _in_template(model: Model, asked: requests.Chat) -> str:
    turns = [Message(turn.role, turn.text) for turn in asked.messages]
    try:
        return model.template.render(turns)
    except ModelError as error:
        raise RequestError(str(error), param="messages") from None


async def _answered(
    request: Request,
    model: Model,
    host: Host,
    asked: requests.Completion | requests.Chat,
    prompts: list[list[int]],
    max_tokens: int,
) -> Response:
    for ids in prompts:
        _check(model, ids, max_tokens)
    sampling = Sampling(
        max_tokens=max_tokens,
        temperature=_temperature(asked.temperature),
        top_p=asked.top_p or 1.0,
        top_k=max(asked.top_k or 0, 0),
        stop=asked.stops,
        samples=asked.n or 1,
        seed=secrets.randbits(31) if asked.seed is None else asked.seed % 2**63,
    )
    rows = [Row("", sample, ids) for ids in prompts for sample in range(sampling.samples)]
    if len(rows) > _MOST_CHOICES:
        raise RequestError(f"n times the prompts is more than {_MOST_CHOICES}", param="n")
    job = host.order(Order(rows, request.scope[STEERS], sampling, asked.top))
    is_chat = isinstance(asked, requests.Chat)
    answer = Answer(model.identity.id, is_chat, sum(map(len, prompts)), asked.top is not None)
    if asked.stream:
        usage = bool(asked.stream_options and asked.stream_options.include_usage)
        pieces = _streamed(job, answer, len(rows), usage=usage)
        return StreamingResponse(pieces, media_type="text/event-stream")
    async with _while_there(request, job):
        return JSONResponse(answer.whole([event async for event in job.told()]))


def _temperature(asked: float | None) -> float:
    """Where nothing but the likeliest token is left, none is drawn."""
    if asked is None:
        return 1.0
    return asked if asked >= _COLD else 0.0


def _check(model: Model, ids: list[int], max_tokens: int) -> None:
    size = model.network.config.get_text_config().vocab_size
    if not ids or any(token >= size for token in ids):
        raise RequestError(
            "a prompt is empty" if not ids else f"token ids are below {size:,}", param="prompt"
        )
    if model.context is not None and len(ids) + max_tokens > model.context:
        raise RequestError(
            f"the prompt has {len(ids):,} tokens; with {max_tokens:,} new ones that is more than"
            f" the {model.context:,} that {model.identity.id} takes",
            code="context_length_exceeded",
        )


async def _streamed(job: Job, answer: Answer, n_choices: int, *, usage: bool) -> AsyncIterator[str]:
    try:
        for chunk in answer.opening(n_choices):
            yield chunk
        async with aclosing(job.told()) as events:
            async for event in events:
                yield answer.event(event)
        for chunk in answer.closing(usage=usage):
            yield chunk
    except RequestError as refusal:  # the status has gone out already
        yield sse(refusal.body)
    finally:
        job.gone.set()


@asynccontextmanager
async def _while_there(request: Request, job: Job) -> AsyncIterator[None]:
    """Give a job up when the client leaves."""

    async def watch() -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(_PATIENCE)
        job.leave()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        job.gone.set()
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
