"""A client for an OpenAI-compatible server. No torch.

Responses are not trusted: their size is limited, and only the needed JSON fields are read.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx

from steer.base.errors import SteerError, UsageError

#: The most bytes of a response.
_MAX_BYTES = 10_000_000
#: Seconds.
_TIMEOUT = 120.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A continuation. log_probs: of each of its tokens; None if the server does not give them."""

    text: str
    log_probs: tuple[float, ...] | None


class Endpoint:
    """A running server. url: with or without `/v1`.

    Raises:
        UsageError: not an HTTP address.
    """

    def __init__(self, url: str, *, api_key: str | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"{url!r} is not an address", hint="write http://localhost:8000")
        self.url = url.rstrip("/").removesuffix("/v1") + "/v1"
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.Client(timeout=_TIMEOUT, headers=headers)
        self._gives_log_probs = True

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def models(self) -> list[str]:
        """Names of the models that the server offers.

        Raises:
            SteerError: the server cannot be reached, or lists no models.
        """
        listed = self._ask("GET", "/models", None).get("data")
        if not isinstance(listed, list):
            raise SteerError(f"{self.url}/models lists no models", hint="name one with --served")
        names = [entry.get("id") for entry in listed if isinstance(entry, dict)]
        return [name for name in names if isinstance(name, str)]

    def complete(self, prompt: str, *, served: str, max_tokens: int, chat: bool = False) -> Answer:
        """A greedy continuation of `prompt`; with `chat`, the answer to it as a user's message.

        Raises:
            SteerError: the server cannot be reached, refuses, or sends an invalid response.
        """
        path = "/chat/completions" if chat else "/completions"
        text: dict[str, Any] = {"prompt": prompt}
        log_probs: dict[str, Any] = {"logprobs": 1}
        if chat:
            text = {"messages": [{"role": "user", "content": prompt}]}
            log_probs = {"logprobs": True}
        body = {"model": served, **text, "max_tokens": max_tokens, "temperature": 0}
        if self._gives_log_probs:
            try:
                return self._answer(self._ask("POST", path, body | log_probs), chat=chat)
            except _RefusedError:
                self._gives_log_probs = False
        return self._answer(self._ask("POST", path, body), chat=chat)

    def _answer(self, response: dict[str, Any], *, chat: bool) -> Answer:
        choice = (response.get("choices") or [None])[0]
        try:
            text = choice["message"]["content"] if chat else choice["text"]
        except (KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            raise SteerError(f"{self.url} answered without a text: is it OpenAI-compatible?")
        return Answer(text, _log_probs(choice.get("logprobs")))

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """Send one request and return the JSON of the response.

        Raises:
            _RefusedError: the server rejects the request as invalid.
            SteerError: any other failure.
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
        if response.status_code in (400, 422):
            raise _RefusedError(f"{self.url} refuses: {_reason(data)}")
        if response.status_code >= 400:
            hint = "name its key with --api-key" if response.status_code in (401, 403) else None
            raise SteerError(
                f"{self.url}{path} answered {response.status_code}: {_reason(data)}", hint=hint
            )
        try:
            parsed = json.loads(data)
        except (ValueError, RecursionError):
            parsed = None
        if not isinstance(parsed, dict):
            raise SteerError(f"{self.url} answered, but not with a JSON object")
        return parsed


class _RefusedError(SteerError):
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
