"""Middleware of a server that generates text: it controls access, and reads the steering fields.

It is an ASGI application around another one, the inner server, which may be vLLM's. It removes the
fields of steering from the body, and only passes on paths that it knows, so that `steer` is never
silently ignored. Before it reports that the server is up, it checks that steers change the inner
server's answers. No torch.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from steer import __version__
from steer.base.errors import VectorError
from steer.base.strict_json import load_strict_json
from steer.serving import limits, pages
from steer.serving.errors import RequestError
from steer.serving.library import FIELDS, Library, Steering
from steer.serving.metrics import Metrics
from steer.vectors.sites import listed

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_MOST_HEADER = 4_000
VECTORS, MODELS = "/v1/vectors", "/v1/models"
#: Paths that need no key, like the files of the page: the server's health, and the description of
#: the API.
_OPEN = ("/health", "/docs", "/openapi.json")
#: The state for the page: the model, and the names for requests.
STATE = "/page/state"
_GET = (
    *_OPEN, STATE, "/version", "/metrics", "/tokenizer_info", "/api/version", "/api/tags", MODELS,
    VECTORS,
)  # fmt: skip
STEERED = ("/v1/completions", "/v1/chat/completions", "/api/chat", "/api/generate")
_POST = (*STEERED, "/tokenize", "/detokenize")
#: Paths to make and save vectors on the page, if `about` has that feature.
_MAKE = ("/page/vectors", "/page/save")
#: Arbitrary tokens, since steers change any text.
SHORT_REQUEST = {"prompt": [1, 2, 3, 4], "max_tokens": 1, "temperature": 0, "logprobs": 5}
#: The largest difference in nats that rounding in another batch can cause.
_SAME = 0.05


def is_local(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Access:
    """Access control.

    api_key: the key that clients must send. local: whether the server only listens on this machine,
    so that a request for another host name comes from a foreign page (DNS rebinding). origins: of
    pages that may call it besides its own.
    """

    api_key: str | None = None
    local: bool = True
    origins: tuple[str, ...] = ()

    def check(self, headers: dict[bytes, bytes], *, needs_key: bool) -> None:
        """Check a request.

        Raises:
            RequestError: it is not allowed.
        """
        host = _hostname(headers.get(b"host", b""))
        if self.local and not is_local(host):
            raise RequestError(
                f"this server is at localhost, not at {host[:100]!r}", 421, code="wrong_host"
            )
        if b"origin" in headers and not self.is_own(headers) and self.allowed(headers) is None:
            raise RequestError(
                "pages of this origin may not call this server (steer serve --allow-origin)",
                403,
                code="wrong_origin",
            )
        if needs_key and self.api_key is not None:
            header = headers.get(b"authorization", b"")
            if not hmac.compare_digest(header, f"Bearer {self.api_key}".encode()):
                raise RequestError("the API key is missing or wrong", 401, code="invalid_api_key")

    def is_own(self, headers: dict[bytes, bytes]) -> bool:
        """Whether the request comes from the server's own page."""
        return urlsplit(headers[b"origin"]).netloc == headers.get(b"host")

    def allowed(self, headers: dict[bytes, bytes]) -> bytes | None:
        """The origin of the request, if it is allowed."""
        origin = headers.get(b"origin", b"")
        return origin if origin.decode("latin-1") in self.origins else None


class SteeringMiddleware:
    """The middleware.

    app: the inner server. hand_on: returns the inner server's body for a request with this
    steering; it may put data into the scope instead. served: the model's name, None if only the
    inner server knows it. about: the model's description for the page. log: called with a line for
    each vector that is left out. log_request: called with a line for each request, without its
    texts. on_up: called once the server answers and steers.
    """

    def __init__(
        self,
        app: Application,
        library: Library,
        hand_on: Callable[[dict[str, Any], Steering, Scope], dict[str, Any]],
        *,
        access: Access,
        served: str | None = None,
        about: Mapping[str, Any] | None = None,
        metrics: Metrics | None = None,
        log: Callable[[str], None] = lambda text: None,
        log_request: Callable[[str], None] = lambda text: None,
        on_up: Callable[[], None] = lambda: None,
    ) -> None:
        self._app, self._library, self._hand_on = app, library, hand_on
        self._access, self._served, self._on_up = access, served, on_up
        self._about = dict(about or {"model": served})
        self._metrics = metrics or Metrics()
        self._log, self._log_request = log, log_request
        #: The reason if the check of steering failed.
        self.failure: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface."""
        if scope["type"] == "lifespan":
            await self._app(
                scope, receive, self._check_before_start(scope.get("app") or self, send)
            )
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:  # web sockets are not supported
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status = time.monotonic(), 0
        headers = dict(scope["headers"])

        async def out(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {
                    **message,
                    "headers": [*message.get("headers", []), *self._cors(headers)],
                }
            await asyncio.wait_for(send(message), limits.SEND_SECONDS)

        try:
            await self._pass(scope, headers, receive, out)
        except RequestError as refusal:
            if not status:
                await _answer(out, refusal.status, refusal.body_at(scope["path"]))
        except asyncio.TimeoutError:
            if not status:
                raise
            # The client does not read: the only remedy is to close the connection.
            raise ConnectionError("the client does not read the answer") from None
        finally:
            seconds = time.monotonic() - began
            path = scope["path"] if scope["path"] in (*_GET, *_POST, *_MAKE) else "other"
            self._metrics.add("steer_requests_total", path=path, status=str(status))
            if path in STEERED:
                self._metrics.observe(seconds)
                log = " ".join(scope.get("steer.log", ()))
                self._log_request(
                    f"{scope['method']} {path} {status} {seconds:.2f} s {log}".rstrip()
                )

    def _cors(self, headers: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        origin = self._access.allowed(headers)
        if origin is None:
            return []
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", b"x-steer"),
            (b"vary", b"origin"),
        ]

    async def _pass(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        method, path = scope["method"], scope["path"].removeprefix(scope.get("root_path", ""))
        is_preflight = method == "OPTIONS" and b"origin" in headers
        file = pages.page_files().get(path)
        is_open = path in _OPEN or file is not None
        self._access.check(headers, needs_key=not is_open and not is_preflight)
        if is_preflight:
            await self._allow(headers, send)
            return
        makes = path in _MAKE and "make" in self._about.get("features", ())
        is_get = path in _GET or file is not None or path.startswith(MODELS + "/")
        if not (is_get or makes) and path not in _POST:
            raise RequestError(
                f"{method} {path[:100]} is not served; POST {' or '.join(STEERED[:2])}", status=404
            )
        if method not in (("GET", "HEAD") if is_get else ("POST",)):
            raise RequestError(f"{path} takes no {method}", status=405)
        if file is not None:
            await _send(send, 200, *file, pages.PAGE_HEADERS)
        elif path == STATE:
            await _answer(send, 200, self._state())
        elif path == VECTORS:
            await _answer(send, 200, self._library.vector_list())
        elif path == MODELS or path.startswith(MODELS + "/"):
            await self._list_models(scope, path.removeprefix(MODELS)[1:], receive, send)
        elif is_get:
            await self._app(scope, receive, send)
        elif makes:
            scope["steer.body"] = await _read_object(headers, receive)
            await self._app(scope, receive, send)
        else:
            await self._steered(scope, headers, receive, send)

    def _state(self) -> dict[str, Any]:
        """The state that the page shows when it opens."""
        library = self._library
        return self._about | {
            "version": __version__,
            "vectors": library.vector_list()["data"],
            "recipes": library.recipe_list(),
            "defaults": [library.as_request(steer) for steer in library.defaults],
        }

    async def _list_models(self, scope: Scope, name: str, receive: Receive, send: Send) -> None:
        """Answer with the inner server's models, each also with every vector and recipe; with a
        name, with that one only.

        Raises:
            RequestError: there is no model of that name.
        """
        path = {"path": scope.get("root_path", "") + MODELS, "raw_path": MODELS.encode()}
        status, data = await self._ask_inner({**scope, **path, "method": "GET"}, receive)
        answer = json.loads(data)
        if status != 200:
            await _answer(send, status, answer)
            return
        models = {
            title: model | {"id": title}
            for model in answer["data"]
            for title in self._library.models(model["id"])
        }
        if name and name not in models:
            raise RequestError(
                f"there is no model {name[:100]!r}; this server has {listed(sorted(models))}",
                status=404,
                param="model",
                code="model_not_found",
            )
        full = answer | {"data": list(models.values())}
        await _answer(send, 200, models[name] if name else full)

    async def _ask_inner(self, scope: Scope, receive: Receive) -> tuple[int, bytes]:
        """The status and body of the inner server's answer."""
        status, parts = 0, []

        async def keep(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                parts.append(message.get("body", b""))

        await self._app(scope, receive, keep)
        return status, b"".join(parts)

    async def _check(self, body: dict[str, Any], steering: Steering, scope: Scope) -> None:
        """Refuse a request that the inner server would silently answer wrongly. body: without the
        fields of steering.

        Raises:
            RequestError: it is refused.
        """

    async def _steered(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        body = await _read_object(headers, receive)
        alias = self._take_alias(body)
        fields = {name: body.pop(name) for name in FIELDS if name in body}
        steering = self._library.steering(fields, alias)
        await self._check(body, steering, scope)
        data = json.dumps(self._hand_on(body, steering, scope)).encode()
        # A separate scope, since the inner server may keep it.
        behind = {**scope, "headers": with_length(scope, len(data))}
        behind["steer.log"] = scope["steer.log"] = [str(steer) for steer in steering.steers]
        await self._app(
            behind, body_receiver(data, receive), _with_header(send, self._header(steering))
        )

    def _take_alias(self, body: dict[str, Any]) -> str | None:
        """Remove the vector's or recipe's name from the model's, and return it."""
        model = body.get("model")
        if not isinstance(model, str):
            return None
        served = self._served or model.rpartition(":")[0]
        alias = self._library.alias(model.removesuffix(":latest"), served)
        if alias is not None:
            body["model"] = served
        return alias

    async def _allow(self, headers: dict[bytes, bytes], send: Send) -> None:
        """Answer the preflight request of a page that `Access.check` has allowed: it may send any
        headers, since clients in browsers add some of their own (such as `x-stainless-os`)."""
        wanted = headers.get(b"access-control-request-headers", b"authorization, content-type")
        allowed = [
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-allow-headers", wanted),
            (b"access-control-max-age", b"600"),
        ]
        await send({"type": "http.response.start", "status": 204, "headers": allowed})
        await send({"type": "http.response.body", "body": b""})

    def _header(self, steering: Steering) -> str:
        """The steers for the header, shortened if they are too long."""
        steers = json.dumps([self._library.as_request(steer) for steer in steering.steers])
        names = [{"vector": self._library.name(steer.vector)} for steer in steering.steers]
        return steers if len(steers) <= _MOST_HEADER else json.dumps(names)

    def _check_before_start(self, application: Application, send: Send) -> Send:
        """Report that the server is up only after the check of steering. application: the one that
        contains this middleware, or the middleware itself."""

        async def checked(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self.failure = await self._check_steering(application)
                if self.failure:
                    message = {"type": "lifespan.startup.failed", "message": self.failure}
                else:
                    self._on_up()
            await send(message)

        return checked

    async def _check_steering(self, application: Application) -> str | None:
        """Generate one token under each vector, and leave out vectors that change nothing. Returns
        the reason if the server does not steer, else None."""
        key = self._access.api_key
        headers = {"authorization": f"Bearer {key}"} if key else {}
        transport = httpx.ASGITransport(app=application)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers=headers, timeout=None
        ) as client:

            async def ask(steer: list[dict[str, Any]]) -> dict[str, float]:
                answer = await client.post(STEERED[0], json=SHORT_REQUEST | {"steer": steer})
                if answer.status_code != 200:
                    raise RequestError(_reason(answer))
                top: dict[str, float] = answer.json()["choices"][0]["logprobs"]["top_logprobs"][0]
                return top

            try:
                plain = await ask([])
                noise = _distance(plain, await ask([]))
                faults = {}
                for name in list(self._library.vectors):
                    try:
                        if _distance(plain, await ask([{"vector": name}])) <= noise:
                            faults[name] = f"{name} changes nothing"
                    except RequestError as error:
                        faults[name] = str(error)
                if faults and len(faults) == len(self._library.vectors):
                    return f"it runs, but {next(iter(faults.values()))} in it"
                if _distance(plain, await ask([])) > max(2 * noise, _SAME):
                    return "unsteered answers change after steered ones"
            except Exception as error:  # the inner server may fail in any way
                return str(error)
        for name, fault in faults.items():
            self._library.leave_out(name)
            self._log(f"{name} is left out: {fault}")
        return None


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return f"a first request got {answer.status_code}: {answer.text[:300]}"


def _distance(first: dict[str, float], second: dict[str, float]) -> float:
    """The largest difference of log-probabilities among tokens that both have."""
    shared = first.keys() & second.keys()
    return max((abs(first[token] - second[token]) for token in shared), default=math.inf)


def _hostname(host: bytes) -> str:
    try:
        return urlsplit(f"//{host.decode()}").hostname or ""
    except ValueError:
        return ""


async def _read_object(headers: dict[bytes, bytes], receive: Receive) -> dict[str, Any]:
    """The parsed body of a request.

    Raises:
        RequestError: the body is too long or too slow, or invalid (`_parse`).
    """
    data = await _body(receive)
    if len(data) <= limits.SMALL_BODY:
        return _parse(headers, data)
    return await asyncio.to_thread(_parse, headers, data)


def _parse(headers: dict[bytes, bytes], data: bytes) -> dict[str, Any]:
    """Parse a body strictly, so that the inner server cannot read it differently.

    Raises:
        RequestError: it is not a JSON object, or has a steering field in the wrong place.
    """
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind != b"application/json":
        raise RequestError("the body has to be application/json", status=415)
    for mark, most in limits.MOST_MARKS.items():
        if data.count(mark.encode()) > most:
            raise RequestError(f"the body has more than {most:,} of {mark!r}", status=413)
    try:
        body = load_strict_json(data.decode(), "the body")
    except (UnicodeDecodeError, VectorError) as error:
        text = str(error) if isinstance(error, VectorError) else "the body is not UTF-8"
        raise RequestError(text) from None
    if not isinstance(body, dict):
        raise RequestError("the body is not a JSON object")
    if len(body) > limits.MOST_FIELDS:
        raise RequestError(f"the body has more than {limits.MOST_FIELDS} fields", status=413)
    for name in body:
        if len(name) > limits.LONGEST_NAME:
            raise RequestError(f"the name of a field has {len(name):,} characters", status=413)
        if name == "extra_body" or ("steer" in name.lower() and name != "steer"):
            raise RequestError(
                f"there is no field {name!r}: steering goes in 'steer', beside 'model'",
                param=name,
                code="unknown_field",
            )
    return body


async def _body(receive: Receive) -> bytes:
    """The complete body.

    Raises:
        RequestError: it is too long or too slow.
    """

    async def read() -> bytes:
        parts, length, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RequestError("the client disconnected")
            parts.append(message.get("body", b""))
            length += len(parts[-1])
            more = message.get("more_body", False)
            if length > limits.MAX_BODY:
                raise RequestError(f"the body has more than {limits.MAX_BODY:,} bytes", status=413)
        return b"".join(parts)

    try:
        return await asyncio.wait_for(read(), limits.BODY_SECONDS)
    except asyncio.TimeoutError:
        raise RequestError(
            f"the body takes more than {limits.BODY_SECONDS:g} seconds", status=408
        ) from None


def body_receiver(data: bytes, receive: Receive) -> Receive:
    """A `receive` that returns this body, and then further messages of the client."""
    waiting = [data]

    async def receive_body() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return receive_body


def _with_header(send: Send, steers: str) -> Send:
    """A `send` that adds a header with the steers to the answer."""

    async def send_with_header(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", []), (b"x-steer", steers.encode())]
            message = {**message, "headers": headers}
        await send(message)

    return send_with_header


def with_length(scope: Scope, length: int) -> list[tuple[bytes, bytes]]:
    """The headers of a request, with another length of its body."""
    changed = (b"content-length", b"transfer-encoding")
    kept = [(name, value) for name, value in scope["headers"] if name not in changed]
    return [*kept, (b"content-length", str(length).encode())]


async def _answer(send: Send, status: int, content: dict[str, Any]) -> None:
    await _send(send, status, json.dumps(content).encode(), "application/json")


async def _send(
    send: Send, status: int, data: bytes, kind: str, more: Mapping[str, str] | None = None
) -> None:
    headers = {"content-type": kind, "content-length": str(len(data))} | dict(more or {})
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": data})
