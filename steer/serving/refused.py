"""What a client is told when a request cannot be answered, as OpenAI's API words it. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from steer.base.errors import HookError, SteerError

_KINDS = {401: "authentication_error", 404: "not_found_error", 503: "overloaded_error"}


@dataclass(eq=False)
class RequestError(Exception):
    """status: of HTTP. param: the field at fault. code: a word for programs."""

    message: str
    status: int = 400
    param: str | None = None
    code: str | None = None

    def __str__(self) -> str:
        return self.message

    @property
    def body(self) -> dict[str, Any]:
        kind = "server_error" if self.status == 500 else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": _KINDS.get(self.status, kind),
                "param": self.param,
                "code": self.code,
            }
        }


def request_error(error: Exception) -> RequestError:
    """What a client is told of an error; of a bug only that there was one."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, SteerError) and not isinstance(error, HookError):
        return RequestError(str(error))
    return RequestError("the server failed; its log says how", 500)
