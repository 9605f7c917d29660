"""The bodies of requests: OpenAI's API, and fields that clients of vLLM and llama.cpp add.

A field that would change the text but is not supported is refused by name, unless its value changes
nothing (such as a repetition penalty of 1). An unknown field is refused too, since users would not
notice that it was ignored. The fields of steering are in `library`. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from steer.serving import limits
from steer.serving.errors import RequestError

_Stop = Annotated[str, Meta(max_length=1000)]
_TokenId = Annotated[int, Meta(ge=0, le=2**31)]
_Count = Annotated[int, Meta(ge=-1, le=1_000_000)]
_Top = Annotated[int, Meta(ge=0, le=20)]
_FIELD = re.compile(r"`?\$\.([\w.\[\]]+)")


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """include_usage: send a last chunk with the numbers of tokens."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: Literal[False] | None = None


class CommonFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The fields of both kinds of request; None is the default, and max_tokens -1 as many as there
    is room for. n_predict: llama.cpp's name of max_tokens. return_token_ids: as in vLLM, give each
    choice `token_ids`; log-probabilities get ids too."""

    model: str | None = None
    max_tokens: _Count | None = None
    n_predict: _Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31)] | None = None
    n: Annotated[int, Meta(ge=1, le=limits.MOST_CHOICES)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: _Stop | Annotated[tuple[_Stop, ...], Meta(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings without empty ones, which some clients send."""
        several = (self.stop,) if isinstance(self.stop, str) else self.stop or ()
        return tuple(text for text in several if text)

    @property
    def most_tokens(self) -> int | None:
        """The most new tokens; None for the default, -1 for no limit."""
        return self.n_predict if self.max_tokens is None else self.max_tokens


class Completion(CommonFields, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/completions. logprobs: the number of likeliest tokens to report, besides the sampled
    one. echo: return the prompt and its log-probabilities before the text."""

    prompt: str | tuple[str | _TokenId | tuple[_TokenId, ...], ...]
    logprobs: _Top | None = None
    add_special_tokens: bool = True
    echo: bool | None = None

    @property
    def prompts(self) -> list[str | tuple[int, ...]]:
        """The prompts, as texts or as token ids.

        Raises:
            RequestError: there is none, or token ids and texts are mixed.
        """
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        loose = tuple(part for part in prompt if isinstance(part, int))
        most = limits.MOST_CHOICES
        if not prompt or (loose and len(loose) < len(prompt)) or len(prompt) > most > len(loose):
            raise RequestError(
                f"prompt is a text, a list of token ids, or a list of up to {most} of those",
                param="prompt",
            )
        return [loose] if loose else [part for part in prompt if not isinstance(part, int)]

    @property
    def top(self) -> int | None:
        """The number of likeliest tokens to report; None reports no log-probabilities."""
        return self.logprobs


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a message; only text is supported."""

    text: str
    type: Literal["text", "input_text", "output_text", "refusal"] = "text"


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message. Some of its fields are only for chat templates that use them."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | tuple[Part, ...] | None = None
    name: str | None = None
    tool_calls: tuple[dict[str, Any], ...] | None = None
    tool_call_id: str | None = None
    function_call: dict[str, Any] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: Any = None
    annotations: Any = None
    audio: None = None

    @property
    def text(self) -> str:
        """The text of all its parts."""
        if self.content is None:
            return ""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class Chat(CommonFields, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[tuple[Turn, ...], Meta(min_length=1, max_length=2_000)]
    max_completion_tokens: _Count | None = None
    logprobs: bool | None = None
    top_logprobs: _Top | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    @property
    def top(self) -> int | None:
        """The number of likeliest tokens to report; None reports no log-probabilities."""
        return self.top_logprobs or 0 if self.logprobs else None


class Tokenize(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /tokenize, as in vLLM and llama.cpp."""

    model: str | None = None
    prompt: str | None = None
    content: str | None = None
    messages: tuple[Turn, ...] | None = None
    add_special_tokens: bool | None = None
    add_special: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    with_pieces: bool | None = None
    return_token_strs: bool | None = None


class Detokenize(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /detokenize."""

    tokens: Annotated[tuple[_TokenId, ...], Meta(max_length=100_000)]
    model: str | None = None


Kind = TypeVar("Kind", Completion, Chat, Tokenize, Detokenize)

#: Fields that change no text: about the user, billing, caching or reports.
_IGNORED = frozenset(
    [
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "cache_prompt",
        "id_slot",
        "slot_id",
        "timings_per_token",
        "request_id",
        "priority",
        "cache_salt",
        "session_id",
        "parallel_tool_calls",
        "return_progress",
        "keep_alive",
    ]
)
#: Unsupported fields, and the values that are allowed because they change nothing; None always is.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1, 0),
    "repeat_penalty": (1,),
    "repeat_last_n": (0, 64),
    "length_penalty": (1,),
    "min_p": (0,),
    "top_a": (0,),
    "typical_p": (1, 0),
    "typ_p": (1,),
    "tfs_z": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "mirostat": (0,),
    "mirostat_mode": (0,),
    "dry_multiplier": (0,),
    "xtc_probability": (0,),
    "dynatemp_range": (0,),
    "min_tokens": (0,),
    "n_keep": (0,),
    "n_probs": (0,),
    "prompt_logprobs": (0, False),
    "ignore_eos": (False,),
    "early_stopping": (False,),
    "use_beam_search": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
    "return_tokens_as_token_ids": (False,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "logit_bias": ({}, []),
    "response_format": ({"type": "text"},),
    "grammar": ("",),
    "json_schema": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": (),
    "best_of": (1,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "reasoning_effort": (),
    "reasoning_format": ("none", "auto"),
    "include_reasoning": (True,),
    "verbosity": ("medium",),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "chat_template": (),
    "documents": ([],),
    "truncate_prompt_tokens": (),
    "logits_processors": ([],),
}


def read(body: Mapping[str, Any], kind: type[Kind], served: str) -> Kind:
    """Parse a request for the model `served`.

    Raises:
        RequestError: it is invalid, names another model, or has an unsupported field.
    """
    own = {}
    known = kind.__struct_fields__
    for name, value in body.items():
        if name in known:
            own[name] = value
        elif name in _NEUTRAL:
            if value is not None and not any(_same(value, neutral) for neutral in _NEUTRAL[name]):
                raise RequestError(
                    f"this server does not support {name}", param=name, code="unsupported"
                )
        elif name not in _IGNORED:
            raise RequestError(f"there is no field {name!r}", param=name, code="unknown_field")
    try:
        request = msgspec.convert(own, kind)
    except msgspec.ValidationError as error:
        field = _FIELD.search(str(error))
        raise RequestError(
            str(error), param=field[1] if field else None, code="bad_request"
        ) from None
    check_model(request.model, served)
    if isinstance(request, Chat) and request.top_logprobs and not request.logprobs:
        raise RequestError("top_logprobs needs logprobs", param="top_logprobs")
    return request


def check_model(name: str | None, served: str) -> None:
    """Check the model's name.

    Raises:
        RequestError: there is no such model.
    """
    if name not in (None, "", served):
        raise RequestError(
            f"there is no model {str(name)[:100]!r}; this server has {served!r}",
            status=404,
            param="model",
            code="model_not_found",
        )


def _same(value: Any, other: Any) -> bool:
    """Whether two values are equal; a boolean only equals a boolean."""
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)
