"""An OpenAI-compatible server, as a client sees it. No torch.

What comes back is not trusted: it is bounded, and read as JSON of the few fields that are needed.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx

from steer.base.errors import SteerError, UsageError

#: No answer to a probe is as long.
_MAX_BYTES = 10_000_000
#: Seconds.
_TIMEOUT = 120.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A continuation; log_probs: of each of its tokens, None where the server tells none."""

    text: str
    log_probs: tuple[float, ...] | None


class Endpoint:
    """A running server. url: with or without `/v1`.

    Raises:
        UsageError: not an address of HTTP.
    """

    def __init__(self, url: str, *, api_key: str | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"{url!r} is not an address", hint="write http://localhost:8000")
        self.url = url.rstrip("/").removesuffix("/v1") + "/v1"
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.Client(timeout=_TIMEOUT, headers=headers)
        self._tells_log_probs = True

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
        """Names of the models that it serves.

        Raises:
            SteerError: it cannot be reached, or does not say.
        """
        listed = self._ask("GET", "/models", None).get("data")
        if not isinstance(listed, list):
            raise SteerError(f"{self.url}/models lists no models", hint="name one with --served")
        names = [one.get("id") for one in listed if isinstance(one, dict)]
        return [name for name in names if isinstance(name, str)]

    def complete(self, prompt: str, *, served: str, max_tokens: int, chat: bool = False) -> Answer:
        """A greedy continuation of `prompt`, or of a conversation that it begins.

        Raises:
            SteerError: it cannot be reached, refuses, or answers something else.
        """
        path = "/chat/completions" if chat else "/completions"
        said: dict[str, Any] = {"prompt": prompt}
        wanted: dict[str, Any] = {"logprobs": 1}
        if chat:
            said = {"messages": [{"role": "user", "content": prompt}]}
            wanted = {"logprobs": True}
        body = {"model": served, **said, "max_tokens": max_tokens, "temperature": 0}
        if self._tells_log_probs:
            try:
                return self._answer(self._ask("POST", path, body | wanted), chat=chat)
            except _RefusedError:
                self._tells_log_probs = False
        return self._answer(self._ask("POST", path, body), chat=chat)

    def _answer(self, told: dict[str, Any], *, chat: bool) -> Answer:
        choice = (told.get("choices") or [None])[0]
        try:
            text = choice["message"]["content"] if chat else choice["text"]
        except (KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            raise SteerError(f"{self.url} answered without a text: is it OpenAI-compatible?")
        return Answer(text, _log_probs(choice.get("logprobs")))

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """One request and its JSON.

        Raises:
            _RefusedError: the server says that the request is wrong.
            SteerError: anything else that is no answer.
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
            told = json.loads(data)
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict):
            raise SteerError(f"{self.url} answered something else than a JSON object")
        return told


class _RefusedError(SteerError):
    """The server does not take a request like this."""


def _log_probs(told: Any) -> tuple[float, ...] | None:
    """Of each token, in either of the two forms that servers use."""
    if not isinstance(told, dict):
        return None
    values = told.get("token_logprobs")
    if values is None and isinstance(told.get("content"), list):
        values = [one.get("logprob") if isinstance(one, dict) else None for one in told["content"]]
    if not isinstance(values, list) or not values:
        return None
    if not all(isinstance(one, int | float) and math.isfinite(one) for one in values):
        return None
    return tuple(float(one) for one in values)


def _reason(data: bytes) -> str:
    """What an error's body says, in a line."""
    text = data.decode("utf-8", "replace")
    try:
        told = json.loads(text)
        found = told.get("error", told.get("detail", told))
        text = str(found.get("message", found) if isinstance(found, dict) else found)
    except (ValueError, RecursionError, AttributeError):
        pass
    text = " ".join(text.split())
    return text[:200] or "nothing"
