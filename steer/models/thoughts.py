"""The tags between which a thinking model writes its thoughts, and where a text is beside them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

#: The first and the last tag of a thought, as chat templates write them. Thoughts of gpt-oss are a
#: message in a channel of their own, and its answer is another message.
TAGS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
)
#: How tokens show spaces and line ends.
_BLANK = " \t\r\n\u0120\u010a\u2581"


class Stage(Enum):
    """Where in a response the next token is. BEFORE: where a thought may still begin."""

    BEFORE = "before"
    THINKING = "thinking"
    ANSWER = "answer"


@dataclass(frozen=True, slots=True)
class Thoughts:
    """The tags of a model's thoughts."""

    first: str
    last: str

    @classmethod
    def of(cls, template: Any) -> Thoughts | None:
        """The tags in the source of a chat template; None if it has none. Some templates take
        thoughts out of earlier answers and name their last tag only."""
        source = str(template or "")
        return next((cls(first, last) for first, last in TAGS if last in source), None)

    def after(self, prompt: str) -> Stage:
        """The stage after a prompt, whose template may have opened or closed a thought."""
        end = prompt.rstrip(_BLANK)
        if end.endswith(self.first):
            return Stage.THINKING
        return Stage.ANSWER if end.endswith(self.last) else Stage.BEFORE


class ThoughtTracker:
    """Follows the tokens of one response: where its next token is.

    tokens: as the tokenizer shows them; a tag may be one token, or several, or a part of one.
    """

    def __init__(self, thoughts: Thoughts, prompt: str) -> None:
        self._thoughts = thoughts
        self.stage = thoughts.after(prompt)
        self._written = ""

    def follow(self, token: str) -> None:
        """Add the next token of the response."""
        tags, self._written = self._thoughts, self._written + token
        if self.stage is Stage.BEFORE:
            begun = self._written.lstrip(_BLANK)
            if begun and not tags.first.startswith(begun):
                self.stage = Stage.ANSWER
        if tags.first in self._written:
            self._turn(tags.first, Stage.THINKING)
        if tags.last in self._written:
            self._turn(tags.last, Stage.ANSWER)
        self._written = self._written[-max(len(tags.first), len(tags.last)) :]

    def _turn(self, tag: str, stage: Stage) -> None:
        self.stage = stage
        self._written = self._written.split(tag, 1)[1]
