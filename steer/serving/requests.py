"""Requests of OpenAI's API, as far as this server has them. No torch.

A field that it does not know is refused, and so is one that it knows but cannot do, where it asks
for something: what is dropped in silence is found out too late.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from steer.serving.refused import RequestError

_Stop = Annotated[str, Meta(min_length=1, max_length=1000)]
_Token = Annotated[int, Meta(ge=0)]
_Count = Annotated[int, Meta(ge=1, le=1_000_000)]
_Top = Annotated[int, Meta(ge=0, le=20)]


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """include_usage: a last chunk that counts tokens."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Common(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What both kinds of request have; None is the default."""

    model: str | None = None
    max_tokens: _Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: _Stop | Annotated[tuple[_Stop, ...], Meta(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # What says who asks, and how it is billed, changes no text.
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    # What would change it, and is not done here.
    frequency_penalty: Any = None
    presence_penalty: Any = None
    logit_bias: Any = None
    response_format: Any = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else self.stop or ()


class Completion(Common, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/completions. logprobs: of so many of the likeliest tokens, and the one taken."""

    prompt: str | tuple[str | _Token | tuple[_Token, ...], ...]
    logprobs: _Top | None = None
    echo: Any = None
    best_of: Any = None
    suffix: Any = None

    @property
    def prompts(self) -> list[str | tuple[int, ...]]:
        """Each as text or as token ids.

        Raises:
            RequestError: there is none, or tokens stand beside texts.
        """
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        loose = tuple(part for part in prompt if isinstance(part, int))
        if not prompt or (loose and len(loose) < len(prompt)) or len(prompt) > 128 > len(loose):
            raise RequestError(
                "prompt is a text, a list of token ids, or a list of up to 128 of those",
                param="prompt",
            )
        return [loose] if loose else [part for part in prompt if not isinstance(part, int)]

    @property
    def top(self) -> int | None:
        return self.logprobs


class Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a message."""

    text: str
    type: Literal["text"] = "text"


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | tuple[Said, ...]
    name: Any = None
    refusal: Any = None
    annotations: Any = None

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class Chat(Common, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[tuple[Turn, ...], Meta(min_length=1)]
    max_completion_tokens: _Count | None = None
    logprobs: bool | None = None
    top_logprobs: _Top | None = None
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    parallel_tool_calls: Any = None
    reasoning_effort: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None

    @property
    def top(self) -> int | None:
        return self.top_logprobs or 0 if self.logprobs else None


Kind = TypeVar("Kind", Completion, Chat)

#: What fields ask for where they ask for nothing.
_NOTHING: tuple[Any, ...] = (None, False, 0, [], {}, "")
_USUAL = {
    "response_format": {"type": "text"},
    "best_of": 1,
    "tool_choice": "none",
    "function_call": "none",
    "parallel_tool_calls": True,
    "modalities": ["text"],
}
_LACKING = (
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "response_format",
    "echo",
    "best_of",
    "suffix",
    "tools",
    "tool_choice",
    "functions",
    "function_call",
    "parallel_tool_calls",
    "reasoning_effort",
    "modalities",
    "audio",
    "prediction",
    "web_search_options",
)


def read(data: bytes, kind: type[Kind], served: str) -> Kind:
    """A request for the model that is `served`.

    Raises:
        RequestError: it is none, or asks for another model, or for what is not done here.
    """
    try:
        asked = msgspec.json.decode(data, type=kind)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise RequestError(str(error), code="bad_request") from None
    if asked.model not in (None, served):
        raise RequestError(
            f"there is no model {str(asked.model)[:100]!r}; this server has {served!r}",
            status=404,
            param="model",
            code="model_not_found",
        )
    for name in _LACKING:
        value = getattr(asked, name, None)
        if value not in _NOTHING and value != _USUAL.get(name):
            raise RequestError(f"this server does not do {name}", param=name, code="unsupported")
    if isinstance(asked, Chat) and asked.top_logprobs and not asked.logprobs:
        raise RequestError("top_logprobs needs logprobs", param="top_logprobs")
    return asked
