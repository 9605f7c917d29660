"""A passage: the text whose activations are read, and its context."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from steer.base.errors import InputError


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat.

    extra: its other fields, such as `reasoning_content` or `tool_calls`, as a JSON object in the
    order in which a chat template sees them; "" where there are none.
    """

    role: str
    content: str
    extra: str = ""

    @property
    def fields(self) -> dict[str, Any]:
        """The other fields."""
        return dict(json.loads(self.extra)) if self.extra else {}

    def as_dict(self) -> dict[str, Any]:
        """The message in the form that chat templates take."""
        return {"role": self.role, "content": self.content, **self.fields}

    def without(self, name: str) -> Message:
        """The message without one of its other fields."""
        others = {field: value for field, value in self.fields.items() if field != name}
        return replace(self, extra=json.dumps(others) if others else "")


def answers_of(messages: Sequence[Message], subject: str) -> list[int]:
    """The indices of the answers of a conversation.

    Raises:
        InputError: there is none.
    """
    answers = [
        index
        for index, message in enumerate(messages)
        if message.role == "assistant" and message.content.strip()
    ]
    if not answers:
        raise InputError(
            f"{subject} has no answer to read",
            hint='messages with "role": "assistant" are read, each after those before it',
        )
    return answers


@dataclass(frozen=True, slots=True)
class Passage:
    """A `prompt`, then the `text` whose activations are read, then a `suffix`.

    All three are plain text if `role` is None. Otherwise they are the content of a chat message of
    that role, `turns` are the messages before it, and `extra` holds the message's other fields, as
    in `Message`.
    """

    prompt: str
    text: str
    suffix: str = ""
    role: str | None = None
    turns: tuple[Message, ...] = ()
    extra: str = ""

    @property
    def full_text(self) -> str:
        return self.prompt + self.text + self.suffix

    @property
    def completes(self) -> bool:
        """Whether the text completes a prompt or a chat, with nothing after it."""
        if self.suffix:
            return False
        return bool(self.prompt.strip()) if self.role is None else self.role == "assistant"


def check_alike(passages: Iterable[Passage]) -> None:
    """Refuse a mixture of chat messages and plain texts.

    Raises:
        InputError: there are both.
    """
    if len({passage.role is None for passage in passages}) > 1:
        raise InputError(
            "some texts are chat messages and others plain texts",
            hint="pass --chat to make messages of all",
        )
