"""Clients of running servers. No torch.

`Server` sends JSON to any HTTP server; `Endpoint` speaks OpenAI's API. Responses are not trusted:
their size is limited, and only the needed JSON fields are read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import httpx

from steer.base.errors import SteerError, UsageError

#: The most bytes of a response.
_MAX_BYTES = 10_000_000
#: Seconds.
_TIMEOUT = 120.0

_Server = TypeVar("_Server", bound="Server")


@dataclass(frozen=True, slots=True)
class Answer:
    """A continuation. log_probs: of each of its tokens; None if the server does not give them."""

    text: str
    log_probs: tuple[float, ...] | None


class Server:
    """A running server that takes and gives JSON. url: its root, with or without `/v1`.

    Raises:
        UsageError: not an HTTP address.
    """

    def __init__(self, url: str, *, api_key: str | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"{url!r} is not an address", hint="write http://localhost:8000")
        self.url = url.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.Client(timeout=_TIMEOUT, headers=headers)

    def __enter__(self: _Server) -> _Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send one request and return the JSON of the response.

        Raises:
            RefusedError: the server rejects the request as invalid.
            SteerError: any other failure.
        """
        status, data = self._send(method, path, body)
        where = self.url + path
        if status in (400, 422):
            raise RefusedError(f"{where} refuses: {_reason(data)}")
        if status >= 400:
            hint = "name its key with --api-key" if status in (401, 403) else None
            raise SteerError(f"{where} answered {status}: {_reason(data)}", hint=hint)
        content = _parsed(data)
        if content is None:
            raise SteerError(f"{where} answered, but not with JSON")
        return content

    def peek(self, path: str) -> tuple[int, Any]:
        """The status of a GET request, and the JSON of the response; None if it is not JSON.

        Raises:
            SteerError: the server cannot be reached.
        """
        status, data = self._send("GET", path, None)
        return status, _parsed(data)

    def _send(self, method: str, path: str, body: Any) -> tuple[int, bytes]:
        """The status and the body of the response.

        Raises:
            SteerError: the server cannot be reached, or the response is too long.
        """
        try:
            with self._client.stream(method, self.url + path, json=body) as response:
                data = b""
                for piece in response.iter_bytes():
                    data += piece
                    if len(data) > _MAX_BYTES:
                        raise SteerError(f"{self.url} answers with more than {_MAX_BYTES:,} bytes")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise SteerError(
                f"cannot reach {self.url}: {str(error) or type(error).__name__}",
                hint="is the server up, and the address right?",
            ) from None
        return response.status_code, data


class Endpoint(Server):
    """A running OpenAI-compatible server. fields: put into the body of each completion request."""

    def __init__(
        self, url: str, *, api_key: str | None = None, fields: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(url, api_key=api_key)
        self.fields = dict(fields or {})
        self._gives_log_probs = True

    def models(self) -> list[str]:
        """Names of the models that the server offers.

        Raises:
            SteerError: the server cannot be reached, or lists no models.
        """
        answer = self.ask("GET", "/v1/models")
        listed = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(listed, list):
            raise SteerError(f"{self.url}/v1/models lists no models", hint="name one with --served")
        names = [entry.get("id") for entry in listed if isinstance(entry, dict)]
        return [name for name in names if isinstance(name, str)]

    def complete(self, prompt: str, *, served: str, max_tokens: int, chat: bool = False) -> Answer:
        """A greedy continuation of `prompt`; with `chat`, the answer to it as a user's message.

        Raises:
            SteerError: the server cannot be reached, refuses, or sends an invalid response.
        """
        path = "/v1/chat/completions" if chat else "/v1/completions"
        text: dict[str, Any] = {"prompt": prompt}
        wanted: dict[str, Any] = {"logprobs": 1}
        if chat:
            text = {"messages": [{"role": "user", "content": prompt}]}
            wanted = {"logprobs": True}
        body = {"model": served, **text, "max_tokens": max_tokens, "temperature": 0, **self.fields}
        if self._gives_log_probs:
            try:
                return self._answer(self.ask("POST", path, body | wanted), chat=chat)
            except RefusedError:
                self._gives_log_probs = False
        return self._answer(self.ask("POST", path, body), chat=chat)

    def _answer(self, response: Any, *, chat: bool) -> Answer:
        try:
            choice = response["choices"][0]
            text = choice["message"]["content"] if chat else choice["text"]
        except (KeyError, IndexError, TypeError):
            text = None
        if not isinstance(text, str):
            raise SteerError(f"{self.url} answered without a text: is it OpenAI-compatible?")
        return Answer(text, _log_probs(choice.get("logprobs")))


class RefusedError(SteerError):
    """The server does not support this request."""


def _log_probs(field: Any) -> tuple[float, ...] | None:
    """The log-probability of each token, from either of the two forms that servers use."""
    if not isinstance(field, dict):
        return None
    values = field.get("token_logprobs")
    content = field.get("content")
    if values is None and isinstance(content, list):
        values = [entry.get("logprob") if isinstance(entry, dict) else None for entry in content]
    if not isinstance(values, list) or not values:
        return None
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        return None
    return tuple(float(value) for value in values)


def _parsed(data: bytes) -> Any:
    """The JSON of a response; None if it is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _reason(data: bytes) -> str:
    """The message in the body of an error, on one line."""
    text = data.decode("utf-8", "replace")
    try:
        body = json.loads(text)
        error = body.get("error", body.get("detail", body))
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, RecursionError, AttributeError):
        pass
    text = " ".join(text.split())
    return text[:200] or "nothing"
