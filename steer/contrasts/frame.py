"""The context of every text of a set: a template, a chat, a system message."""

from __future__ import annotations

import string
from dataclasses import dataclass

from steer.base.errors import InputError, UsageError
from steer.contrasts.passages import Message, Passage
from steer.contrasts.schema import Content

PLACEHOLDERS = ("text", "prompt", "condition")


@dataclass(frozen=True, slots=True)
class Frame:
    """How a text, its prompt and its condition become the model's input.

    template: with `{text}`, `{prompt}` and `{condition}`; without `{text}`, the text follows it.
    chat: as messages, for the model's chat template. The filled template is the user's message, and
        a text outside it is the answer. Without a template: a prompt is the user's message and its
        text the answer; a text alone is the user's message; a condition is the system message.
    system: a system message before the others.

    Raises:
        UsageError: the template cannot be parsed, or there is a system message without a chat.
    """

    template: str | None = None
    chat: bool = False
    system: str | None = None

    def __post_init__(self) -> None:
        if self.system is not None and not self.chat:
            raise UsageError("--system needs --chat")
        if self.template is None:
            return
        try:
            fields = {name for _, name, *_ in string.Formatter().parse(self.template) if name}
            empty = any(name == "" for _, name, *_ in string.Formatter().parse(self.template))
        except ValueError as error:
            raise UsageError(
                f"the template cannot be read: {error}", hint="write {{ for a brace"
            ) from None
        if unknown := sorted(fields - set(PLACEHOLDERS)) or (["{}"] if empty else []):
            raise UsageError(
                f"the template has {unknown[0]!r}, which stands for nothing",
                hint="use {text}, {prompt} and {condition}, and {{ for a brace",
            )

    def passage(
        self, where: str, text: Content, prompt: Content = "", condition: str | None = None
    ) -> Passage:
        """A text in its context; `where` is its place in the file, for errors.

        Raises:
            InputError: the template has no placeholder for the prompt or the condition, or has one
                without a value; or the text is chat messages and there is a template.
            UsageError: a system message beside conditions, or a template with `{text}` twice.
        """
        if not isinstance(text, str) or not isinstance(prompt, str):
            return self._conversation(where, text, prompt, condition)
        before, after, holds_text = self._filled(where, prompt, condition)
        if not self.chat:
            return Passage(before if holds_text else joinable(before), text, after)
        system = self.system
        if self.template is None:
            if system is not None and condition is not None:
                raise UsageError("--system: the conditions are the system messages already")
            system, before = system if condition is None else condition, prompt
        turns = (Message("system", system),) if system else ()
        if holds_text and not (self.template is None and prompt):
            return Passage(before, text, after, "user", turns)
        return Passage("", text, "", "assistant", (*turns, Message("user", before)))

    def _filled(self, where: str, prompt: str, condition: str | None) -> tuple[str, str, bool]:
        """The strings before and after the text, and whether the template contains the text."""
        if self.template is None:
            return joinable(condition or "") + prompt, "", True
        values = {"prompt": prompt or None, "condition": condition}
        parts, sides = list(string.Formatter().parse(self.template)), [""]
        named = {name for _, name, *_ in parts}
        for name, value in values.items():
            if (value is not None) != (name in named):
                has = "no" if value is not None else "a"
                lacks = "is one" if value is not None else "is none"
                raise InputError(f"{where}: the template has {has} {{{name}}}, and here {lacks}")
        for literal, field, *_ in parts:
            sides[-1] += literal
            if field == "text":
                sides.append("")
            elif field is not None:
                sides[-1] += values[field] or ""
        if len(sides) > 2:
            raise UsageError("the template has {text} twice", hint="write {text} once")
        return sides[0], sides[1] if len(sides) == 2 else "", len(sides) == 2

    def _conversation(
        self, where: str, text: Content, prompt: Content, condition: str | None
    ) -> Passage:
        if self.template is not None:
            raise InputError(
                f"{where}: chat messages have no place in a template", hint="leave --template out"
            )
        turns = (Message("assistant", text),) if isinstance(text, str) else text
        if not isinstance(prompt, str):
            turns = prompt + turns
        elif prompt and turns[0].role == "assistant":
            turns = (Message("user", prompt), *turns)
        system = self.system if condition is None else condition
        if system:
            if turns[0].role == "system":
                raise InputError(f"{where}: there is a system message already")
            turns = (Message("system", system), *turns)
        last = turns[-1]
        return Passage("", last.content, "", last.role, turns[:-1], last.extra)


#: No context.
PLAIN = Frame()


def joinable(condition: str) -> str:
    """A condition to put before a text: with a space at its end, unless it ends in white space."""
    return condition if not condition or condition[-1].isspace() else condition + " "
