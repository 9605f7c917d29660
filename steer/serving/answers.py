"""Answers of OpenAI's API, whole and in pieces. No torch."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

_Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was written, with its log-probability and those of the likeliest at its place.

    They are the model's own, steered, before temperature and what else changes them to draw.
    """

    text: str
    log_prob: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """What a choice goes on with. tokens: none where nobody asked for log-probabilities."""

    choice: int
    text: str
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True)
class End:
    """A choice is over, after so many tokens."""

    choice: int
    finish: Literal["stop", "length"]
    n_tokens: int


@dataclass
class Answer:
    """The answer to one request, of which it makes JSON.

    n_prompt: tokens of all prompts. logprobs: whether they were asked for.
    """

    model: str
    chat: bool
    n_prompt: int
    logprobs: bool
    created: int = field(default_factory=lambda: int(time.time()))
    _id: str = field(default_factory=lambda: secrets.token_hex(12))
    _offsets: dict[int, int] = field(default_factory=dict)
    _n_new: int = 0

    def whole(self, events: Sequence[Piece | End]) -> _Json:
        """All choices, from everything that happened."""
        ends = sorted((one for one in events if isinstance(one, End)), key=lambda one: one.choice)
        choices = []
        for end in ends:
            self._n_new += end.n_tokens
            own = [one for one in events if isinstance(one, Piece) and one.choice == end.choice]
            text = "".join(piece.text for piece in own)
            tokens = [token for piece in own for token in piece.tokens]
            said = {"message": {"role": "assistant", "content": text}} if self.chat else None
            choices.append(self._choice(end.choice, said or {"text": text}, tokens, end.finish))
        return self._shell("") | {"choices": choices, "usage": self._usage()}

    def opening(self, n_choices: int) -> list[str]:
        """What a stream begins with."""
        if not self.chat:
            return []
        begun = {"delta": {"role": "assistant", "content": ""}}
        return [self._chunk(self._choice(index, begun, [], None)) for index in range(n_choices)]

    def event(self, event: Piece | End) -> str:
        """The same in a stream."""
        text = event.text if isinstance(event, Piece) else ""
        tokens = event.tokens if isinstance(event, Piece) else ()
        finish = None
        if isinstance(event, End):
            self._n_new += event.n_tokens
            finish = event.finish
        said: _Json = {"text": text}
        if self.chat:
            said = {"delta": {"content": text} if text or tokens else {}}
        return self._chunk(self._choice(event.choice, said, tokens, finish))

    def closing(self, *, usage: bool) -> list[str]:
        """What a stream ends with."""
        last = sse(self._shell(".chunk") | {"choices": [], "usage": self._usage()})
        return [*([last] if usage else []), "data: [DONE]\n\n"]

    def _shell(self, suffix: str) -> _Json:
        kind = f"chat.completion{suffix}" if self.chat else "text_completion"
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {
            "id": f"{prefix}-{self._id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
        }

    def _chunk(self, choice: _Json) -> str:
        return sse(self._shell(".chunk") | {"choices": [choice]})

    def _choice(
        self, index: int, said: _Json, tokens: Sequence[Token], finish: str | None
    ) -> _Json:
        log_probs = None
        if self.logprobs and (tokens or finish is None):
            log_probs = self._for_chat(tokens) if self.chat else self._plain(index, tokens)
        return {"index": index, **said, "logprobs": log_probs, "finish_reason": finish}

    def _plain(self, index: int, tokens: Sequence[Token]) -> _Json:
        offsets = []
        for token in tokens:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(token.text)
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.log_prob for token in tokens],
            "top_logprobs": [dict(token.top) | {token.text: token.log_prob} for token in tokens],
            "text_offset": offsets,
        }

    def _for_chat(self, tokens: Sequence[Token]) -> _Json:
        content = [
            _entry(token.text, token.log_prob)
            | {"top_logprobs": [_entry(text, value) for text, value in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _usage(self) -> _Json:
        return {
            "prompt_tokens": self.n_prompt,
            "completion_tokens": self._n_new,
            "total_tokens": self.n_prompt + self._n_new,
        }


def sse(told: _Json) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(told)}\n\n"


def _entry(text: str, log_prob: float) -> _Json:
    return {"token": text, "logprob": log_prob, "bytes": list(text.encode())}
