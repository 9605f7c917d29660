"""Steer vLLM's own OpenAI server: `SteeringMiddleware` wraps it, and `SteeredWorker` runs in its
processes.

The steering of a request is passed on in `vllm_xargs`, which clients may not set themselves. This
module does not import vLLM, which runs as a separate program that imports this module.
"""

from __future__ import annotations

import asyncio
import difflib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import httpx

from steer.base.errors import SteerError, UsageError
from steer.engines import wire
from steer.engines.slots import Shape, shape_of
from steer.engines.vllm_engine import (
    FOLDER,
    NAME,
    WORKER,
    default_dtype,
    environment,
    unbounded,
)
from steer.hooks.acting import reached
from steer.models.source import ModelSource
from steer.serving.errors import RequestError
from steer.serving.library import FIELDS, Library, Steering
from steer.serving.middleware import (
    SHORT_REQUEST,
    STEERED,
    Access,
    Application,
    Scope,
    SteeringMiddleware,
    body_receiver,
    with_length,
)
from steer.steering.operation import Coefficient
from steer.steering.steers import Steer
from steer.vectors import store
from steer.vectors.rendering import DEFAULT_SETTINGS, TemplateSettings

#: The most ops other than add of one request at one layer; the tables are made in advance.
MOST_OTHER_OPS = 2
#: Environment variables with the server's key, and with the settings of access.
_KEY, _ACCESS = "STEER_API_KEY", "STEER_SERVE_ACCESS"
_PROGRAM = "vllm.entrypoints.openai.api_server"
#: The most steerings for which the result of the check for changes is cached.
_MOST_KNOWN = 10_000
#: Seconds that vLLM gets to end.
_GRACE_SECONDS = 20
#: Fields that would bypass the middleware: tensors, another request's cache, and a beam search,
#: which drops the other fields of its request.
_FORBIDDEN = ("prompt_embeds", "kv_transfer_params", "ec_transfer_params", "use_beam_search")


class VllmMiddleware(SteeringMiddleware):
    """The middleware of a server that `run` started; vLLM creates it for `--middleware`."""

    def __init__(self, app: Application) -> None:
        files = store.files(Path(os.environ[FOLDER]))
        library = Library({file.stem: store.read(file) for file in files})

        def hand_on(body: dict[str, Any], steering: Steering, _scope: Scope) -> dict[str, Any]:
            return vllm_body(body, steering, library, template)

        settings = json.loads(os.environ.get(_ACCESS, "{}"))
        template = TemplateSettings(settings.get("template_arguments", ""))
        library.defaults = library.steering({"steer": settings.get("defaults", [])}).steers
        access = Access(
            os.environ.get(_KEY), settings.get("local", True), tuple(settings.get("origins", ()))
        )
        about = settings.get("about")
        super().__init__(app, library, hand_on, access=access, about=about, log=_warn)
        #: The names of the fields that a body may have, by path.
        self._fields: dict[str, frozenset[str]] = {}
        #: Whether a steer changes the model's output, by its encoding for the workers.
        self._acts: dict[str, bool] = {}

    async def _check_steering(self, application: Application) -> str | None:
        transport = httpx.ASGITransport(app=self._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.get("/openapi.json")
        if answer.status_code != 200:
            return "vLLM does not say which fields a request may have: leave its docs on"
        self._fields = body_fields(answer.json())
        return await super()._check_steering(application)

    async def _check(self, body: dict[str, Any], steering: Steering, scope: Scope) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        check_fields(body, self._fields.get(path, frozenset()))
        if path not in STEERED or steering.allow_idle:
            return
        for steer in steering.steers:
            if steer.coefficient.value and not await self._changes(steer, scope):
                raise RequestError(
                    f'{steer} changes nothing here; "allow_idle": true runs it all the same',
                    param="steer",
                    code="idle",
                )

    async def _changes(self, steer: Steer, scope: Scope) -> bool:
        """Whether a steer changes any bit of the first token's log-probabilities; tested once."""
        if not reached(steer, [False, False], 2, steer.vector.metadata.model.n_layers):
            return False
        try:
            key = wire.encode([unbounded(steer)], self._library.names)
            wire.check_engine_can(steer, NAME)
        except UsageError:
            return True  # `vllm_body` refuses it
        if key not in self._acts:
            if len(self._acts) >= _MOST_KNOWN:
                self._acts.clear()
            steering = Steering((unbounded(steer),))
            plain, steered = [
                await self._first_log_probs(tested, scope) for tested in (Steering(), steering)
            ]
            self._acts[key] = plain != steered
        return self._acts[key]

    async def _first_log_probs(self, steering: Steering, scope: Scope) -> Any:
        """The log-probabilities of a first token under a steering."""
        data = json.dumps(vllm_body(dict(SHORT_REQUEST), steering, self._library)).encode()
        path = {"path": scope.get("root_path", "") + STEERED[0], "raw_path": STEERED[0].encode()}
        inner = {**scope, **path, "query_string": b"", "headers": with_length(scope, len(data))}
        status, answer = await self._ask_inner(inner, body_receiver(data, _silence))
        if status != 200:
            raise RequestError(f"vLLM answers {status} to the request that tests it", status=502)
        return json.loads(answer)["choices"][0]["logprobs"]


def vllm_body(
    body: dict[str, Any],
    steering: Steering,
    library: Library,
    template: TemplateSettings = DEFAULT_SETTINGS,
) -> dict[str, Any]:
    """The body to pass on to vLLM. template: the server's own template settings.

    Raises:
        RequestError: the engine does not support it, or it would bypass the middleware.
    """
    fields = {
        "guard": steering.guards,
        "watch": steering.watched,
        "condition": steering.guides,
        "prefill": steering.prefill,
        "cost": steering.cost,
    }
    for name, value in fields.items():
        if value:
            raise RequestError(
                f"--engine vllm does not support {name}", param=name, code="unsupported"
            )
    steers = steering.steers
    try:
        for steer in steers:
            wire.check_engine_can(steer, NAME)
    except UsageError as error:
        raise RequestError(str(error), param="steer", code="bad_steer") from None
    if shape_of([steers], 1).n_along > MOST_OTHER_OPS:
        raise RequestError(
            f"at most {MOST_OTHER_OPS} ops other than add are allowed at one layer",
            param="steer",
            code="bad_steer",
        )
    for field in _FORBIDDEN:
        if body.get(field):
            raise RequestError(
                f"this server does not support {field}", param=field, code="unsupported"
            )
    if "messages" in body:
        own = body.get("chat_template_kwargs") or {}
        if not isinstance(own, dict):
            raise RequestError("chat_template_kwargs is an object", param="chat_template_kwargs")
        chosen, _ = steering.template_settings(template, own)
        body = body | ({"chat_template_kwargs": chosen.values} if chosen.arguments else {})
    extra, salt = body.get("vllm_xargs") or {}, body.get("cache_salt")
    if not isinstance(extra, dict) or "steer" in extra:
        raise RequestError("steering goes in 'steer', not in vllm_xargs", param="vllm_xargs")
    if salt is not None and not isinstance(salt, str):
        raise RequestError("cache_salt is a text", param="cache_salt")
    key = wire.encode(steers, library.names)
    if key:
        body = body | {"vllm_xargs": extra | {"steer": key}}
    if key or salt:
        # Cached keys and values must only be shared under the same steers, whatever salt the
        # client sends.
        salted = hashlib.sha256(json.dumps([key, salt]).encode()).hexdigest()
        body = body | {"cache_salt": salted}
    return body


async def _silence() -> NoReturn:
    """The `receive` of a client that only waits."""
    await asyncio.Event().wait()
    raise AssertionError


def body_fields(openapi: Any) -> dict[str, frozenset[str]]:
    """The names of a body's fields, by path, from a server's description (OpenAPI 3)."""
    fields: dict[str, frozenset[str]] = {}
    for path, methods in openapi["paths"].items():
        content = methods.get("post", {}).get("requestBody", {}).get("content", {})
        schema = content.get("application/json", {}).get("schema", {})
        fields[path] = frozenset(_properties(schema, openapi))
    return fields


def _properties(schema: Any, openapi: Any) -> Iterator[str]:
    """The fields of a schema and of those that it refers to."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        yield from _properties(openapi["components"]["schemas"][name], openapi)
    for kind in ("anyOf", "oneOf", "allOf"):
        for option in schema.get(kind, ()):
            yield from _properties(option, openapi)
    yield from schema.get("properties", {})


def check_fields(body: Mapping[str, Any], known: frozenset[str]) -> None:
    """Refuse a field that vLLM does not know, since it would silently ignore it.

    Raises:
        RequestError: naming the field.
    """
    for name in body:
        if name not in known:
            close = difflib.get_close_matches(name, [*known, *FIELDS], n=1)
            suggestion = f" (did you mean {close[0]!r}?)" if close else ""
            raise RequestError(
                f"there is no field {name[:100]!r}{suggestion}",
                param=name[:100],
                code="unknown_field",
            )


def shape(library: Library) -> Shape:
    """Tables for all possible requests; the worker decides the number of slots."""
    every = [
        [Steer(vector, Coefficient(1.0), vector.metadata.layers)]
        for vector in library.vectors.values()
    ]
    return replace(shape_of(every, n_slots=0), n_along=MOST_OTHER_OPS)


def run(
    source: ModelSource,
    library: Library,
    *,
    about: Mapping[str, Any],
    host: str,
    port: int,
    access: Access,
    options: dict[str, Any],
    on_up: Callable[[], None],
) -> None:
    """Run vLLM's server until the process is interrupted. options: of vLLM.

    library: once `on_up` is called, without the vectors that change nothing there. about: the
    model's description for the page.

    Raises:
        SteerError: the server ended by itself.
    """
    server_options: dict[str, Any] = {
        "model": source.location,
        "served_model_name": about["model"],
        "dtype": source.dtype or default_dtype(),
        "host": host,
        "port": port,
        "worker_cls": WORKER,
        "additional_config": {"steer": asdict(shape(library))},
        "middleware": f"{VllmMiddleware.__module__}.{VllmMiddleware.__qualname__}",
        "uvicorn_log_level": "error",
        # Defaults are OpenAI's, not those of the checkpoint.
        "generation_config": "vllm",
    }
    server_options |= {"revision": source.revision} if source.revision else {}
    server_options |= {"trust_remote_code": True} if source.trust_remote_code else {}
    command = [sys.executable, "-W", "ignore", "-m", _PROGRAM, *arguments(server_options | options)]
    with tempfile.TemporaryDirectory(prefix="steer-") as folder:
        for name, vector in library.vectors.items():
            store.write(Path(folder) / f"{name}{store.SUFFIX}", vector)
        variables = {**os.environ, **environment(), FOLDER: folder}
        variables.pop(_KEY, None)
        if access.api_key is not None:
            variables[_KEY] = access.api_key
        settings = {
            "local": access.local,
            "origins": access.origins,
            "template_arguments": source.template.arguments,
            "about": dict(about),
            "defaults": [library.as_request(steer) for steer in library.defaults],
        }
        variables[_ACCESS] = json.dumps(settings)
        url = f"http://{_client_address(host)}:{port}"

        def when_up() -> None:
            for name in set(library.vectors) - _served_names(url, access):
                library.leave_out(name)
            on_up()

        _run(command, variables, f"{url}/health", when_up)


def arguments(options: Mapping[str, Any]) -> list[str]:
    """Options as arguments of vLLM's command line."""
    words = []
    for name, value in options.items():
        dashed = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{dashed}")
        else:
            words += [f"--{dashed}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return words


def _run(
    command: list[str], variables: dict[str, str], health: str, on_up: Callable[[], None]
) -> None:
    """Run the program until it ends."""

    def ended(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, ended)
    process = subprocess.Popen(command, env=variables)
    try:
        while process.poll() is None and not _is_up(health):
            time.sleep(0.5)
        if process.poll() is None:
            on_up()
        status = process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
        _end(process)
    raise SteerError(f"vLLM's server ended with status {status}", hint="see its messages above")


def _warn(text: str) -> None:
    """Report in vLLM's process, whose stderr is that of the command."""
    sys.stderr.write(f"warning: {text}\n")


def _served_names(url: str, access: Access) -> set[str]:
    """The names of the vectors that a server serves.

    Raises:
        SteerError: it does not list them.
    """
    headers = {"authorization": f"Bearer {access.api_key}"} if access.api_key else {}
    try:
        answer = httpx.get(f"{url}/v1/vectors", headers=headers, timeout=60, trust_env=False)
        return {vector["id"] for vector in answer.raise_for_status().json()["data"]}
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        raise SteerError(f"vLLM's server does not list its vectors: {error}") from None


def _is_up(health: str) -> bool:
    try:
        return httpx.get(health, timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _client_address(host: str) -> str:
    """The host under which this machine reaches a server that listens at `host`."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{here}]" if ":" in here else here
