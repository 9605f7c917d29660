"""The server on Hugging Face for one model, steered by hooks: OpenAI's API, and endpoints of other
servers that their clients need.

`SteeringMiddleware` wraps it and serves the page; it passes a request's body and steering in the
scope.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from fastapi.responses import StreamingResponse as Stream

from steer import __version__
from steer.models.model import Model
from steer.serving import limits, ollama, pages, requests
from steer.serving.batching import Batcher, Job
from steer.serving.errors import RequestError
from steer.serving.library import Library, Steering
from steer.serving.metrics import Metrics
from steer.serving.middleware import MODELS
from steer.serving.responses import Answer, sse
from steer.serving.service import BODY, LOG, STEERING, PreparedRequest, Service, all_events
from steer.serving.workshop import SAVE, VECTORS, Workshop


def hand_on(body: dict[str, Any], steering: Steering, scope: Any) -> dict[str, Any]:
    """Pass a request on within this process: in the scope, not in a new body."""
    scope[BODY], scope[STEERING] = body, steering
    return {}


def build(
    model: Model,
    batcher: Batcher,
    library: Library,
    metrics: Metrics,
    created: int,
    folder: Path | None = None,
) -> FastAPI:
    """The application, without `SteeringMiddleware`. created: the time of its start. folder: for
    vectors that are made on the page; None makes none."""
    app = FastAPI(title="steer", openapi_url=None, docs_url=None, redoc_url=None)
    service = Service(model, batcher, library, limits.TimedThreads())
    served = service.served

    @app.exception_handler(RequestError)
    async def refuse(request: Request, refusal: RequestError) -> Response:
        return JSONResponse(refusal.body_at(request.url.path), refusal.status)

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> Response:
        refusal = batcher.error(error)
        return JSONResponse(refusal.body_at(request.url.path), refusal.status)

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get("/version")
    async def version() -> Response:
        return JSONResponse({"version": __version__})

    @app.get("/metrics")
    async def prometheus() -> Response:
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/docs")
    async def docs() -> Response:
        return HTMLResponse(pages.docs(), headers=pages.HEADERS)

    @app.get("/openapi.json")
    async def openapi() -> Response:
        return JSONResponse(pages.openapi())

    @app.get(MODELS)
    async def models() -> Response:
        known = {"id": served, "object": "model", "created": created, "owned_by": "steer"}
        if model.context is not None:
            known["max_model_len"] = model.context
        return JSONResponse({"object": "list", "data": [known]})

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        prepared = await service.prepare_completion(request.scope[BODY], request.scope[STEERING])
        return await _answer(request, service, prepared)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        prepared = await service.prepare_chat(request.scope[BODY], request.scope[STEERING])
        return await _answer(request, service, prepared)

    @app.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        params = requests.read(request.scope[BODY], requests.Tokenize, served)
        text = params.prompt if params.prompt is not None else params.content
        if (text is None) == (params.messages is None):
            raise RequestError("give a prompt or messages", param="prompt")
        notes: list[str] = []
        if text is not None:
            special = params.add_special if params.add_special_tokens is None else None
            special = params.add_special_tokens if special is None else special
            ids = await service.encode(text, special=special is not False)
        else:
            ids, notes = await service.encode_chat(params, request.scope[STEERING])
        answer: dict[str, Any] = {"tokens": ids, "count": len(ids), "max_model_len": model.context}
        if notes:
            answer["steer"] = {"notes": notes}
        if params.with_pieces:
            answer["tokens"] = [{"id": id_, "piece": model.token(id_)} for id_ in ids]
        if params.return_token_strs:
            answer["token_strs"] = [model.token(id_) for id_ in ids]
        return JSONResponse(answer)

    @app.post("/detokenize")
    async def detokenize(request: Request) -> Response:
        params = requests.read(request.scope[BODY], requests.Detokenize, served)
        size = model.network.config.get_text_config().vocab_size
        if any(id_ >= size for id_ in params.tokens):
            raise RequestError(f"token ids are below {size:,}", param="tokens")
        text = await service.decode(params.tokens)
        return JSONResponse({"prompt": text, "content": text})

    @app.get("/tokenizer_info")
    async def tokenizer_info() -> Response:
        tokenizer = model.tokenizer
        names = ("bos_token", "eos_token", "pad_token", "unk_token", "chat_template")
        about = {name: getattr(tokenizer, name, None) for name in names}
        about["tokenizer_class"] = type(tokenizer).__name__
        return JSONResponse({name: value for name, value in about.items() if value is not None})

    if folder is not None:
        workshop = Workshop(model, batcher, library, folder)

        @app.post(VECTORS)
        async def make(request: Request) -> Response:
            events = workshop.make_vector(request.scope[BODY])
            return Stream(events, media_type="text/event-stream")

        @app.post(SAVE)
        async def save(request: Request) -> Response:
            return JSONResponse(workshop.save(request.scope[BODY]))

    ollama.add_routes(app, service, created)
    return app


async def _answer(request: Request, service: Service, prepared: PreparedRequest) -> Response:
    steering: Steering = request.scope[STEERING]
    job, _ = service.begin(prepared, steering)
    answer = service.answer(prepared, steering, job, service.served)
    log = request.scope[LOG]
    if prepared.params.stream:
        options = prepared.params.stream_options
        usage = bool(options and options.include_usage)
        pieces = _streamed(job, answer, usage=usage, log=log)
        return Stream(pieces, media_type="text/event-stream", headers={"cache-control": "no-cache"})
    events = await all_events(request, job)
    content = answer.complete(events)
    log.append(f"{answer.n_prompt}+{answer.n_new} tokens")
    return Response(msgspec.json.encode(content), media_type="application/json")


async def _streamed(job: Job, answer: Answer, *, usage: bool, log: list[str]) -> AsyncIterator[str]:
    try:
        for chunk in answer.first_chunks(answer.n_choices):
            yield chunk
        async with aclosing(job.stream()) as events:
            async for event in events:
                yield answer.event(event)
        for chunk in answer.last_chunks(usage=usage):
            yield chunk
    except RequestError as refusal:  # the status has been sent already
        yield sse(refusal.body)
        yield "data: [DONE]\n\n"
    finally:
        job.gone.set()
        log.append(f"{answer.n_prompt}+{answer.n_new} tokens")
