"""Answers of OpenAI's API, complete and streamed. No torch.

The field `steer` is added to them. In the answer it has the steers, in the format of requests, the
idle ones, and notes on the chat template; in a choice, the actions of gates and guards, and the
watched projections with their tokens.
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
    """A token, with its log-probability and those of the likeliest tokens at its position.

    They are the steered model's, before temperature and other sampling options. log_prob is None
    for the first token of a prompt. top: id, text and log-probability of each of the likeliest.
    watched: its projections, in the files' units.
    """

    id: int
    text: str
    log_prob: float | None
    top: tuple[tuple[int, str, float], ...] = ()
    watched: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """More text of a choice. tokens: empty unless the request asks for their details."""

    choice: int
    text: str
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True)
class ChoiceEnd:
    """The end of a choice. idle: the steers without effect in it. cost: the cost of steering, if
    the request asks for it."""

    choice: int
    finish: Literal["stop", "length"]
    n_tokens: int
    gates: tuple[GateReading, ...] = ()
    trips: tuple[Trip, ...] = ()
    idle: tuple[str, ...] = ()
    cost: Cost | None = None


@dataclass
class Answer:
    """Makes the JSON of the answer to one request.

    n_prompt: the number of tokens of all prompts. logprobs, token_ids: whether the request asks for
    them. steers: in the format of requests. watched: names of the reported projections. notes: for
    the client, on the rendering of its messages.
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
        """The number of new tokens of all finished choices."""
        return self._n_new

    def complete(self, events: Sequence[Piece | ChoiceEnd]) -> _Json:
        """The complete answer, from all events."""
        ends = sorted(
            (event for event in events if isinstance(event, ChoiceEnd)),
            key=lambda event: event.choice,
        )
        choices = []
        for end in ends:
            own = [
                event for event in events if isinstance(event, Piece) and event.choice == end.choice
            ]
            text = "".join(piece.text for piece in own)
            tokens = [token for piece in own for token in piece.tokens]
            content: _Json = {"text": text}
            if self.chat:
                content = {"message": {"role": "assistant", "content": text}}
            choices.append(self._choice(end.choice, content, tokens, end))
        return self._shell("") | {"choices": choices, "usage": self.usage()} | self._steering()

    def first_chunks(self, n_choices: int) -> list[str]:
        """The first chunks of a stream."""
        if not self.chat:
            return []
        begun = {"delta": {"role": "assistant", "content": ""}}
        return [self._chunk(self._choice(index, begun, [], None)) for index in range(n_choices)]

    def event(self, event: Piece | ChoiceEnd) -> str:
        """The chunk of an event in a stream."""
        if isinstance(event, ChoiceEnd):
            content: _Json = {"delta": {}} if self.chat else {"text": ""}
            choice = self._choice(event.choice, content, (), event)
            is_last = len(self._idle) == self.n_choices
            return self._chunk(choice, self._steering() if is_last else {})
        content = {"delta": {"content": event.text}} if self.chat else {"text": event.text}
        return self._chunk(self._choice(event.choice, content, event.tokens, None))

    def last_chunks(self, *, usage: bool) -> list[str]:
        """The last chunks of a stream."""
        last = sse(self._shell(".chunk") | {"choices": [], "usage": self.usage()})
        return [*([last] if usage else []), "data: [DONE]\n\n"]

    def usage(self) -> _Json:
        """The numbers of tokens."""
        return {
            "prompt_tokens": self.n_prompt,
            "completion_tokens": self._n_new,
            "total_tokens": self.n_prompt + self._n_new,
        }

    def _steering(self) -> _Json:
        """The steers, those idle in all texts, and notes."""
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

    def _choice(
        self, index: int, content: _Json, tokens: Sequence[Token], end: ChoiceEnd | None
    ) -> _Json:
        log_probs = None
        if self.logprobs and (tokens or end is None):
            log_probs = self._for_chat(tokens) if self.chat else self._plain(index, tokens)
        choice = {
            "index": index,
            **content,
            "logprobs": log_probs,
            "finish_reason": end and end.finish,
        }
        if self.token_ids:
            choice["token_ids"] = [token.id for token in tokens]
        if end is not None:
            self._n_new += end.n_tokens
            self._idle.append(end.idle)
        steering = choice_steering(self.watched, tokens, end)
        return choice | ({"steer": steering} if steering else {})

    def _plain(self, index: int, tokens: Sequence[Token]) -> _Json:
        offsets = []
        for token in tokens:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(token.text)
        log_probs: _Json = {
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
            log_probs["top"] = [
                [{"id": id_, "token": text, "logprob": value} for id_, text, value in token.top]
                for token in tokens
            ]
        return log_probs

    def _for_chat(self, tokens: Sequence[Token]) -> _Json:
        content = [
            self._entry(token.id, token.text, token.log_prob)
            | {"top_logprobs": [self._entry(*alternative) for alternative in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token: int, text: str, log_prob: float | None) -> _Json:
        entry: _Json = {"token": text, "logprob": log_prob, "bytes": list(text.encode())}
        return entry | ({"id": token} if self.token_ids else {})


def choice_steering(
    watched: Sequence[str], tokens: Sequence[Token], end: ChoiceEnd | None
) -> _Json:
    """How a choice was steered, for its JSON: the projections of its tokens. At its end also what
    gates and guards did, which steers were idle, and the cost. watched: names of the projections.
    """
    content: _Json = {}
    if watched and tokens:
        columns = zip(*(token.watched for token in tokens), strict=True)
        content["tokens"] = [token.text for token in tokens]
        content["watched"] = dict(zip(watched, map(list, columns), strict=True))
    if end is not None:
        content |= {"gates": [asdict(gate) for gate in end.gates]} if end.gates else {}
        content |= {"trips": [asdict(trip) for trip in end.trips]} if end.trips else {}
        content |= {"idle": list(end.idle)} if end.idle else {}
        content |= {"cost": asdict(end.cost)} if end.cost else {}
    return content


def sse(content: _Json) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(content)}\n\n"
