"""Answers of OpenAI's API, whole and in pieces. No torch.

What steering did stands beside what that API has, in `steer`: of the whole answer the steers, as a
request would have them, which of them acted nowhere, and notes on how the messages were put into
the chat template; of a choice, what gates and guards did, and the projections that were watched,
with the tokens that they belong to.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from steer.steering.generation import GateReading, Trip

if TYPE_CHECKING:
    from steer.generate.cost import Cost

_Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was written, with its log-probability and those of the likeliest at its place.

    They are the model's own, steered, before temperature and what else changes them to draw.
    log_prob is None of the first token of a prompt. top: id, text and log-probability of each of
    the likeliest. watched: its projections, in the
    files' units.
    """

    id: int
    text: str
    log_prob: float | None
    top: tuple[tuple[int, str, float], ...] = ()
    watched: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """What a choice goes on with. tokens: none where nobody asked for what they have."""

    choice: int
    text: str
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True)
class End:
    """A choice is over, after so many tokens. idle: steers that acted nowhere in it. cost: what
    steering cost it, where the request asks for that."""

    choice: int
    finish: Literal["stop", "length"]
    n_tokens: int
    gates: tuple[GateReading, ...] = ()
    trips: tuple[Trip, ...] = ()
    idle: tuple[str, ...] = ()
    cost: Cost | None = None


@dataclass
class Answer:
    """The answer to one request, of which it makes JSON.

    n_prompt: number of tokens of all prompts. logprobs, token_ids: whether the request asks for
    them. steers: as a request has them. watched: names of the projections that are reported. notes:
    what a client should know of how its messages were rendered.
    """

    model: str
    chat: bool
    n_prompt: int
    logprobs: bool
    n_choices: int = 1
    steers: Sequence[_Json] = ()
    watched: Sequence[str] = ()
    notes: Sequence[str] = ()
    token_ids: bool = False
    created: int = field(default_factory=lambda: int(time.time()))
    _id: str = field(default_factory=lambda: secrets.token_hex(12))
    _offsets: dict[int, int] = field(default_factory=dict)
    _n_new: int = 0
    _idle: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def n_new(self) -> int:
        """New tokens so far, of all choices that are over."""
        return self._n_new

    def whole(self, events: Sequence[Piece | End]) -> _Json:
        """All choices, from everything that happened."""
        ends = sorted((one for one in events if isinstance(one, End)), key=lambda one: one.choice)
        choices = []
        for end in ends:
            own = [one for one in events if isinstance(one, Piece) and one.choice == end.choice]
            text = "".join(piece.text for piece in own)
            tokens = [token for piece in own for token in piece.tokens]
            said: _Json = {"text": text}
            if self.chat:
                said = {"message": {"role": "assistant", "content": text}}
            choices.append(self._choice(end.choice, said, tokens, end))
        return self._shell("") | {"choices": choices, "usage": self.usage()} | self._steering()

    def opening(self, n_choices: int) -> list[str]:
        """What a stream begins with."""
        if not self.chat:
            return []
        begun = {"delta": {"role": "assistant", "content": ""}}
        return [self._chunk(self._choice(index, begun, [], None)) for index in range(n_choices)]

    def event(self, event: Piece | End) -> str:
        """The same in a stream."""
        if isinstance(event, End):
            said: _Json = {"delta": {}} if self.chat else {"text": ""}
            choice = self._choice(event.choice, said, (), event)
            is_last = len(self._idle) == self.n_choices
            return self._chunk(choice, self._steering() if is_last else {})
        said = {"delta": {"content": event.text}} if self.chat else {"text": event.text}
        return self._chunk(self._choice(event.choice, said, event.tokens, None))

    def closing(self, *, usage: bool) -> list[str]:
        """What a stream ends with."""
        last = sse(self._shell(".chunk") | {"choices": [], "usage": self.usage()})
        return [*([last] if usage else []), "data: [DONE]\n\n"]

    def usage(self) -> _Json:
        """How many tokens it took."""
        return {
            "prompt_tokens": self.n_prompt,
            "completion_tokens": self._n_new,
            "total_tokens": self.n_prompt + self._n_new,
        }

    def _steering(self) -> _Json:
        """What steered, what of that acted in no text, and notes."""
        if not self.steers and not self.notes:
            return {}
        everywhere = set.intersection(*map(set, self._idle)) if self._idle else set()
        steering = {"steers": list(self.steers), "idle": sorted(everywhere)}
        return {"steer": steering | ({"notes": list(self.notes)} if self.notes else {})}

    def _shell(self, suffix: str) -> _Json:
        kind = f"chat.completion{suffix}" if self.chat else "text_completion"
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {
            "id": f"{prefix}-{self._id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
        }

    def _chunk(self, choice: _Json, steering: _Json | None = None) -> str:
        return sse(self._shell(".chunk") | {"choices": [choice]} | (steering or {}))

    def _choice(self, index: int, said: _Json, tokens: Sequence[Token], end: End | None) -> _Json:
        log_probs = None
        if self.logprobs and (tokens or end is None):
            log_probs = self._for_chat(tokens) if self.chat else self._plain(index, tokens)
        made = {
            "index": index,
            **said,
            "logprobs": log_probs,
            "finish_reason": end and end.finish,
        }
        if self.token_ids:
            made["token_ids"] = [token.id for token in tokens]
        own: _Json = {}
        if self.watched and tokens:
            columns = zip(*(token.watched for token in tokens), strict=True)
            own["tokens"] = [token.text for token in tokens]
            own["watched"] = dict(zip(self.watched, map(list, columns), strict=True))
        if end is not None:
            self._n_new += end.n_tokens
            self._idle.append(end.idle)
            own |= {"gates": [asdict(one) for one in end.gates]} if end.gates else {}
            own |= {"trips": [asdict(one) for one in end.trips]} if end.trips else {}
            own |= {"idle": list(end.idle)} if end.idle else {}
            own |= {"cost": asdict(end.cost)} if end.cost else {}
        return made | ({"steer": own} if own else {})

    def _plain(self, index: int, tokens: Sequence[Token]) -> _Json:
        offsets = []
        for token in tokens:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(token.text)
        made: _Json = {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.log_prob for token in tokens],
            "top_logprobs": [
                None
                if token.log_prob is None
                else {text: value for _, text, value in token.top} | {token.text: token.log_prob}
                for token in tokens
            ],
            "text_offset": offsets,
        }
        if self.token_ids:
            made["top"] = [
                [{"id": id_, "token": text, "logprob": value} for id_, text, value in token.top]
                for token in tokens
            ]
        return made

    def _for_chat(self, tokens: Sequence[Token]) -> _Json:
        content = [
            self._entry(token.id, token.text, token.log_prob)
            | {"top_logprobs": [self._entry(*one) for one in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token: int, text: str, log_prob: float | None) -> _Json:
        entry: _Json = {"token": text, "logprob": log_prob, "bytes": list(text.encode())}
        return entry | ({"id": token} if self.token_ids else {})


def sse(told: _Json) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(told)}\n\n"
