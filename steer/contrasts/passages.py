"""A passage: the text that is read, and what stands round it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from steer.base.errors import InputError


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat.

    extra: its other fields, such as `reasoning_content` or `tool_calls`, as a JSON object with
    sorted keys; "" where there are none. A chat template may use them.
    """

    role: str
    content: str
    extra: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The message as chat templates take it."""
        others = json.loads(self.extra) if self.extra else {}
        return {"role": self.role, "content": self.content, **others}


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
