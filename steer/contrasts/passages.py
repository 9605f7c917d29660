"""A passage: the text that is read, and what stands round it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from steer.base.errors import InputError


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat.

    extra: its other fields, such as `reasoning_content` or `tool_calls`, as a JSON object; ""
    where there are none. A chat template may use them, in the order that they have here.
    """

    role: str
    content: str
    extra: str = ""

    @property
    def fields(self) -> dict[str, Any]:
        """The other fields."""
        return dict(json.loads(self.extra)) if self.extra else {}

    def as_dict(self) -> dict[str, Any]:
        """The message as chat templates take it."""
        return {"role": self.role, "content": self.content, **self.fields}

    def without(self, name: str) -> Message:
        """The message without one of its other fields."""
        left = {field: value for field, value in self.fields.items() if field != name}
        return replace(self, extra=json.dumps(left) if left else "")


@dataclass(frozen=True, slots=True)
class Passage:
    """`prompt` comes first, then `text`, which is what is read, then `suffix`.

    The three are plain text where `role` is None. Otherwise they are the content of a message of
    that role, `turns` are the messages before it, `extra` are the message's other fields (as of
    `Message`), and a chat template goes round all of them.
    """

    prompt: str
    text: str
    suffix: str = ""
    role: str | None = None
    turns: tuple[Message, ...] = ()
    extra: str = ""

    @property
    def whole(self) -> str:
        return self.prompt + self.text + self.suffix

    @property
    def completes(self) -> bool:
        """Whether the text is the answer to something, and the end."""
        if self.suffix:
            return False
        return bool(self.prompt.strip()) if self.role is None else self.role == "assistant"


def check_alike(passages: Iterable[Passage]) -> None:
    """Refuse messages among plain texts.

    Raises:
        InputError: there are both.
    """
    if len({passage.role is None for passage in passages}) > 1:
        raise InputError(
            "some texts are chat messages and others plain texts",
            hint="pass --chat to make messages of all",
        )
