"""What stands before a server that generates: it reads what a request asks of steering.

An ASGI application round another one, which may be vLLM's. It lets through only the paths that it
knows to be steered, so that `steer` is never dropped in silence; takes the field out of the body;
and asks the server that it guards, before that says that it is up, whether steers change its
answers. No torch.
"""

from __future__ import annotations

import hmac
import json
import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import httpx

from steer.base.errors import VectorError
from steer.base.strict_json import load_strict_json
from steer.serving.asked import Shelf
from steer.serving.refused import RequestError
from steer.steering.steers import Steer

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY = 8_000_000
_MOST_HEADER = 4_000
VECTORS = "/v1/vectors"
_GET = ("/health", "/version", "/metrics", "/v1/models", VECTORS)
_STEERED = ("/v1/completions", "/v1/chat/completions")
#: Any tokens: what is edited changes whatever they say.
_PROBE = {"prompt": [1, 2, 3, 4], "max_tokens": 1, "temperature": 0, "logprobs": 5}
#: Nats by which engines that round otherwise in other batches are apart, and no steers are.
_SAME = 0.05
_JSON = [(b"content-type", b"application/json")]


class Gate:
    """app: the server behind. hand_on: what its body has to be for these steers; it may put them
    into the scope in place of that. api_key: what clients have to know. on_up: hears that it
    answers, and steers.
    """

    def __init__(
        self,
        app: Application,
        shelf: Shelf,
        hand_on: Callable[[dict[str, Any], list[Steer], Scope], dict[str, Any]],
        *,
        api_key: str | None = None,
        on_up: Callable[[], None] = lambda: None,
    ) -> None:
        self._app, self._shelf, self._hand_on = app, shelf, hand_on
        self._api_key, self._on_up = api_key, on_up
        #: Why it did not start, if that was the reason.
        self.failure: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._when_checked(scope.get("app") or self, send))
        elif scope["type"] == "http":
            try:
                await self._pass(scope, receive, send)
            except RequestError as refusal:
                await _answer(send, refusal.status, refusal.body)
        else:  # sockets steer nothing
            await send({"type": "websocket.close", "code": 1008})

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"].removeprefix(scope.get("root_path", ""))
        if path != "/health":
            self._check_key(scope)
        if path not in (*_GET, *_STEERED):
            raise RequestError(
                f"{method} {path[:100]} is not served; POST {' or '.join(_STEERED)}", status=404
            )
        if method != ("POST" if path in _STEERED else "GET"):
            raise RequestError(f"{path} takes no {method}", status=405)
        if path == VECTORS:
            await _answer(send, 200, self._shelf.told())
        elif path in _GET:
            await self._app(scope, receive, send)
        else:
            body = _object(scope, await _body(receive))
            steers = self._shelf.steers(body.pop("steer", None))
            data = json.dumps(self._hand_on(body, steers, scope)).encode()
            # A scope of its own: what is behind may keep it.
            behind = {**scope, "headers": _headers(scope, len(data))}
            await self._app(behind, _again(data, receive), _telling(send, self._told(steers)))

    def _told(self, steers: list[Steer]) -> str:
        """What was done, in as many letters as a header has."""
        told = json.dumps([self._shelf.as_asked(steer) for steer in steers])
        names = [{"vector": self._shelf.names[steer.vector]} for steer in steers]
        return told if len(told) <= _MOST_HEADER else json.dumps(names)

    def _check_key(self, scope: Scope) -> None:
        if self._api_key is None:
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, f"Bearer {self._api_key}".encode()):
            raise RequestError(
                "the API key is missing or wrong", status=401, code="invalid_api_key"
            )

    def _when_checked(self, whole: Application, send: Send) -> Send:
        """Says that the server is up once it is known to steer. whole: the application that this
        is a part of, or it itself."""

        async def checked(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self.failure = await self._examined(whole)
                if self.failure:
                    message = {"type": "lifespan.startup.failed", "message": self.failure}
                else:
                    self._on_up()
            await send(message)

        return checked

    async def _examined(self, whole: Application) -> str | None:
        """Ask for one token under each vector; what is wrong, if anything is."""
        headers = {"authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        transport = httpx.ASGITransport(app=whole)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://steer", headers=headers, timeout=None
        ) as client:

            async def ask(steer: list[dict[str, Any]]) -> dict[str, float]:
                answer = await client.post(_STEERED[0], json=_PROBE | {"steer": steer})
                if answer.status_code != 200:
                    raise RequestError(
                        f"a first request got {answer.status_code}: {answer.text[:300]}"
                    )
                told: dict[str, float] = answer.json()["choices"][0]["logprobs"]["top_logprobs"][0]
                return told

            try:
                plain = await ask([])
                noise = _distance(plain, await ask([]))
                for name in self._shelf.vectors:
                    if _distance(plain, await ask([{"vector": name}])) <= noise:
                        return f"it runs, but {name} changes nothing in it"
                if _distance(plain, await ask([])) > max(2 * noise, _SAME):
                    return "what is not steered is answered otherwise after what is"
            except Exception as error:  # the server behind may fail in any way
                return str(error)
        return None


def _distance(one: dict[str, float], other: dict[str, float]) -> float:
    """The largest difference of a token's log-probability, of the tokens that both name."""
    shared = one.keys() & other.keys()
    return max((abs(one[token] - other[token]) for token in shared), default=math.inf)


def _object(scope: Scope, data: bytes) -> dict[str, Any]:
    """The body, which nothing behind will read in another way.

    Raises:
        RequestError: it is no JSON object, or seems to ask for steering where nothing looks.
    """
    kind = dict(scope["headers"]).get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind != b"application/json":
        raise RequestError("the body has to be application/json", status=415)
    try:
        body = load_strict_json(data.decode(), "the body")
    except (UnicodeDecodeError, VectorError) as error:
        text = str(error) if isinstance(error, VectorError) else "the body is not UTF-8"
        raise RequestError(text) from None
    if not isinstance(body, dict):
        raise RequestError("the body is not a JSON object")
    for field in body:
        if field == "extra_body" or ("steer" in field.lower() and field != "steer"):
            raise RequestError(
                f"there is no field {field[:100]!r}: steering goes in 'steer', beside 'model'",
                param=field[:100],
                code="unknown_field",
            )
    return body


async def _body(receive: Receive) -> bytes:
    """All of it.

    Raises:
        RequestError: it is too long.
    """
    data = b""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError("the client left")
        data += message.get("body", b"")
        more = message.get("more_body", False)
        if len(data) > MAX_BODY:
            raise RequestError(f"the body has more than {MAX_BODY:,} bytes", status=413)
    return data


def _again(data: bytes, receive: Receive) -> Receive:
    """A body that was read, to be read again; then what the client does next."""
    waiting = [data]

    async def again() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return again


def _telling(send: Send, steers: str) -> Send:
    """Has the answer's header say how it was steered."""

    async def telling(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", []), (b"x-steer", steers.encode())]
            message = {**message, "headers": headers}
        await send(message)

    return telling


def _headers(scope: Scope, length: int) -> list[tuple[bytes, bytes]]:
    changed = (b"content-length", b"transfer-encoding")
    kept = [(name, value) for name, value in scope["headers"] if name not in changed]
    return [*kept, (b"content-length", str(length).encode())]


async def _answer(send: Send, status: int, told: dict[str, Any]) -> None:
    data = json.dumps(told).encode()
    headers = [*_JSON, (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})
