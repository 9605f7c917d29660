"""Ollama's API, for clients that support no other: /api/chat, /api/generate, /api/tags."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from steer import __version__
from steer.serving.batching import Event
from steer.serving.errors import RequestError
from steer.serving.responses import ChoiceEnd, Token, choice_steering
from steer.serving.service import BODY, LOG, STEERING, PreparedRequest, Service, all_events, lines

_Json = dict[str, Any]

#: Options of the hardware, which are fixed here and change no text.
_IGNORED = frozenset(
    [
        "num_ctx",
        "num_batch",
        "num_gpu",
        "main_gpu",
        "num_thread",
        "num_keep",
        "use_mmap",
        "use_mlock",
        "low_vram",
        "numa",
        "vocab_only",
        "f16_kv",
        "penalize_newline",
    ]
)
_NAMES = {"num_predict": "n_predict"}


def add_routes(app: FastAPI, service: Service, created: int) -> None:
    """Add the paths to an application. created: when it was started, in seconds."""

    @app.get("/api/version")
    async def version() -> Response:
        return JSONResponse({"version": __version__})

    @app.get("/api/tags")
    async def tags() -> Response:
        identity = service.model.identity
        names = service.library.models(service.served)
        about = {
            "modified_at": _time(created),
            "size": 0,
            "digest": identity.fingerprint,
            "details": {"format": "safetensors", "family": identity.architecture},
        }
        return JSONResponse(
            {"models": [{"name": model_name, "model": model_name, **about} for model_name in names]}
        )

    @app.post("/api/chat")
    async def chat(request: Request) -> Response:
        body = request.scope[BODY]
        return await _answer(request, service, _translate(body, "messages"), "message")

    @app.post("/api/generate")
    async def generate(request: Request) -> Response:
        body = dict(request.scope[BODY])
        raw, system, prompt = (body.pop(name, None) for name in ("raw", "system", "prompt"))
        translated = _translate(body, "prompt")
        if raw:
            translated["prompt"] = prompt
        else:
            messages = [{"role": "system", "content": system}] if system else []
            translated["messages"] = [*messages, {"role": "user", "content": prompt}]
        return await _answer(request, service, translated, "response")


def _translate(body: Mapping[str, Any], own: str) -> _Json:
    """Translate a body to OpenAI's API.

    Raises:
        RequestError: it has an unsupported field.
    """
    request: _Json = {"stream": True}
    options = body.get("options") or {}
    if not isinstance(options, dict):
        raise RequestError("options is an object", param="options")
    for name, value in options.items():
        if name not in _IGNORED:
            request[_NAMES.get(str(name), str(name))] = (
                -1 if name == "num_predict" and value == -2 else value
            )
    for name, value in body.items():
        if name in ("format", "think", "images", "template", "context", "suffix", "tools"):
            if value not in (None, "", [], False):
                raise RequestError(
                    f"this server does not support {name}", param=name, code="unsupported"
                )
        elif name == "model" and isinstance(value, str):
            request[name] = value.removesuffix(":latest")
        elif name not in ("options", "keep_alive"):
            request[name] = value
    if own == "messages":
        request[own] = [
            {key: value for key, value in message.items() if key != "thinking"}
            if isinstance(message, dict)
            else message
            for message in body.get("messages") or ()
        ]
    return request


async def _answer(request: Request, service: Service, body: _Json, field: str) -> Response:
    steering, log = request.scope[STEERING], request.scope[LOG]
    prepared: PreparedRequest
    if "messages" in body:
        prepared = await service.prepare_chat(body, steering)
    else:
        prepared = await service.prepare_completion({"n_predict": -1} | body, steering)
    job, _ = service.begin(prepared, steering)
    began, n_prompt = time.monotonic(), sum(map(len, prepared.prompts))
    watched = [str(readout) for readout in steering.watched]

    def as_json(text: str, tokens: Sequence[Token], end: ChoiceEnd | None) -> _Json:
        content: _Json = {"response": text}
        if field == "message":
            content = {"message": {"role": "assistant", "content": text}}
        answer = {"model": service.served, "created_at": _time(time.time()), **content}
        steered = choice_steering(watched, tokens, end)
        if end is None:
            return answer | {"done": False} | ({"steer": steered} if steered else {})
        nanoseconds = int((time.monotonic() - began) * 1e9)
        steered |= {"notes": prepared.notes} if prepared.notes else {}
        return answer | {
            "done": True,
            "done_reason": end.finish,
            "total_duration": nanoseconds,
            "prompt_eval_count": n_prompt,
            "eval_count": end.n_tokens,
            "eval_duration": nanoseconds,
            **({"steer": steered} if steered else {}),
        }

    def line(event: Event) -> str:
        if isinstance(event, ChoiceEnd):
            return json.dumps(as_json("", (), event)) + "\n"
        return json.dumps(as_json(event.text, event.tokens, None)) + "\n"

    if prepared.params.stream:
        stream = lines(job, line, _error_line, log, n_prompt)
        return StreamingResponse(stream, media_type="application/x-ndjson")
    events = await all_events(request, job)
    pieces = [event for event in events if not isinstance(event, ChoiceEnd)]
    (end,) = (event for event in events if isinstance(event, ChoiceEnd))
    log.append(f"{n_prompt}+{end.n_tokens} tokens")
    tokens = [token for piece in pieces for token in piece.tokens]
    return JSONResponse(as_json("".join(piece.text for piece in pieces), tokens, end))


def _error_line(refusal: RequestError) -> str:
    return json.dumps({"error": refusal.message}) + "\n"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()
