"""Errors of requests, in the format of OpenAI's API. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from steer.base.errors import GuardError, HookError, SteerError

_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    503: "overloaded_error",
}


@dataclass(eq=False)
class RequestError(Exception):
    """A request that cannot be answered.

    status: of HTTP. param: the field at fault. code: an identifier for programs.
    """

    message: str
    status: int = 400
    param: str | None = None
    code: str | None = None

    def __str__(self) -> str:
        return self.message

    def body_at(self, path: str) -> dict[str, Any]:
        """The JSON body for a client of this path; Ollama's clients expect only the message."""
        return {"error": self.message} if path.startswith("/api/") else self.body

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body for a client of OpenAI's API."""
        kind = "server_error" if self.status == 500 else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": _KINDS.get(self.status, kind),
                "param": self.param,
                "code": self.code,
            }
        }


def request_error(error: Exception) -> RequestError | None:
    """The error for the client; None for a bug, whose details clients must not see."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, GuardError):
        return RequestError(str(error), 422, "guard", "guard_tripped")
    if isinstance(error, HookError):
        return RequestError(str(error), 500, code="not_steered")
    if isinstance(error, SteerError):
        return RequestError(str(error))
    return None
