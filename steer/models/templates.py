"""Chat templates: messages as the text that a model was trained on.

A template is a function of more than the messages: of arguments such as `enable_thinking`, and
often of the date. Both are settings here (`TemplateSettings`), so that the same settings give the
same text. Whatever a template does with messages that a user would not expect is reported once,
by default through the log `steer.models.templates`.
"""

from __future__ import annotations

import datetime
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from types import FrameType
from typing import Any

from steer.base.errors import ModelError
from steer.contrasts.passages import Message, Passage
from steer.vectors.rendering import DEFAULT_SETTINGS, TemplateSettings

if sys.platform != "win32":
    import resource

_PEAK_UNIT = 1 if sys.platform == "darwin" else 1024
#: Processor seconds, growth of the process in bytes, and characters that a template may take.
MOST_SECONDS, MOST_GROWTH, MOST_CHARACTERS = 5.0, 1_000_000_000, 50_000_000
#: Stands in for a message while the template round it is found out; no template trims its middle.
_STAND_IN = "steer0message0"
_SYSTEM, _USER = "steer0system0", "steer0user0"
#: How often each extra field of messages is looked for in what the template gives.
_LOOKS = 8
#: The environment of a compiled template is shared by all tokenizers that have the template.
_RENDERING = threading.RLock()
_log = logging.getLogger(__name__)


class ChatTemplate:
    """The chat template of a tokenizer, with settings; `name` is the model's, for messages.

    `report` gets a sentence about each thing that a user would not expect, once. `uses_date` tells
    whether anything rendered so far depends on the date.
    """

    def __init__(
        self,
        tokenizer: Any,
        name: str,
        settings: TemplateSettings = DEFAULT_SETTINGS,
        report: Callable[[str], None] = _log.warning,
    ) -> None:
        self.tokenizer = tokenizer
        self.name = name
        self.settings = settings
        self.date = self.settings.date or datetime.date.today()
        self.uses_date = False
        self._send_report = report
        self._reported: set[str] = set()
        self._looked: dict[str, int] = {}
        self._around: dict[tuple[object, ...], tuple[str, str]] = {}

    @property
    def exists(self) -> bool:
        """Whether the tokenizer has a template; Mistral's own tokenizers have theirs in code."""
        if getattr(self.tokenizer, "chat_template", None):
            return True
        return type(self.tokenizer).__name__.startswith("MistralCommon")

    @property
    def recorded(self) -> dict[str, Any]:
        """What a vector file keeps of the settings (`Read`): nothing that made no difference."""
        kept: dict[str, Any] = {}
        if self.settings.arguments:
            kept["template_args"] = self.settings.values
        if self.uses_date:
            kept["date"] = self.date.isoformat()
        return kept

    @property
    def key(self) -> list[Any]:
        """What decides, beside the tokenizer, which text messages become."""
        dated = "strftime_now" in str(getattr(self.tokenizer, "chat_template", ""))
        return [self.settings.arguments, self.date.isoformat() if dated else None]

    def render(
        self, messages: Sequence[Message], *, ask: bool = True, unfinished: bool = False
    ) -> str:
        """Messages in the template; with `ask`, up to where the next answer begins.

        With `unfinished` the text ends where the last message does, which is to be continued;
        `ask` is then false. A system message goes before the first user message where the template
        has no system role.

        Raises:
            ModelError: there is no template, it refuses the messages, or it takes too much time or
                memory.
        """
        if messages and messages[0].role == "system" and not self.has_system_role:
            messages = _without_system_role(messages)
        rendered = self._apply(messages, ask, unfinished)
        self._report_unused(messages, rendered, ask, unfinished)
        return rendered

    def passages(self, passages: Sequence[Passage]) -> Iterator[Passage]:
        """Passages as plain text; those that are messages get the chat template round them.

        What the template puts after an answer, such as the end of a turn, is left out: a model is
        read as it stands while it writes.

        Raises:
            ModelError: as `render`; or the template does not give the message as it is.
        """
        for passage in passages:
            yield passage if passage.role is None else self._passage(passage)

    def _passage(self, passage: Passage) -> Passage:
        assert passage.role is not None
        if passage.turns and passage.turns[0].role == "system" and not self.has_system_role:
            passage = _passage_without_system_role(passage)
        assert passage.role is not None
        ask = passage.role != "assistant"
        messages = (*passage.turns, Message(passage.role, passage.whole, passage.extra))
        rendered = self._apply(messages, ask)
        self._report_unused(messages, rendered, ask)
        before, after = self._around_message(passage.turns, passage.role, passage.extra)
        asked = self._prompt(passage.turns) if passage.role == "assistant" else None
        # A template may put an empty thought before answers, and none where the answer has its own.
        for start in dict.fromkeys((before, before if asked is None else asked)):
            for cut, body in ((0, passage.whole), (_indent(passage.whole), passage.whole.strip())):
                if rendered == start + body + after:
                    self._report_other_prompt(asked, start, passage)
                    return _cut(passage, start, body, after, cut)
        hint = "put them into the template yourself, and pass the contrasts as plain texts"
        if "<think>" in passage.whole:
            hint = "write the thoughts as a field of the message: reasoning_content"
        raise ModelError(
            f"the chat template of {self.name} does not give messages as they are", hint=hint
        )

    @cached_property
    def has_system_role(self) -> bool:
        """Whether a system message can stand first; it is reported where it cannot."""
        try:
            rendered = self._apply((Message("system", _SYSTEM), Message("user", _USER)), True)
        except ModelError:
            rendered = ""
        if _SYSTEM in rendered:
            return True
        self._apply((Message("user", _USER),), True)  # or the template fails altogether
        self._report(
            f"the chat template of {self.name} has no system role: system messages go before the"
            " first user message"
        )
        return False

    @cached_property
    def variables(self) -> frozenset[str] | None:
        """The arguments that the template looks at; None where that is not known."""
        compiled = self._compiled
        if compiled is None:
            return None
        from jinja2 import meta

        source = self.tokenizer.get_chat_template()
        found = meta.find_undeclared_variables(compiled.environment.parse(source))
        return frozenset(found) - set(compiled.environment.globals) - _GIVEN

    @cached_property
    def _set_inside(self) -> set[str]:
        """Names that the template gives values itself, somewhere."""
        from jinja2 import nodes

        parsed = self._compiled.environment.parse(self.tokenizer.get_chat_template())
        return {name.name for name in parsed.find_all(nodes.Name) if name.ctx == "store"}

    def check_arguments(self) -> None:
        """Report arguments that the template does not look at."""
        if not self.exists or self.variables is None:
            return
        for name in self.settings.values:
            if name not in self.variables | {"tools", "documents"}:
                takes = ", ".join(sorted(self.variables - self._set_inside)) or "none"
                self._report(
                    f"the chat template of {self.name} does not use the argument {name!r};"
                    f" it takes: {takes}"
                )

    @cached_property
    def _compiled(self) -> Any:
        """The compiled template, which transformers keeps and uses too; None if there is none."""
        from transformers.utils import chat_template_utils

        compiler = getattr(chat_template_utils, "_compile_jinja_template", None)
        if compiler is None or not getattr(self.tokenizer, "chat_template", None):
            return None
        try:
            return compiler(self.tokenizer.get_chat_template())
        except Exception:  # rendering says what is wrong with it
            return None

    def _apply(self, messages: Sequence[Message], ask: bool, unfinished: bool = False) -> str:
        if not self.exists:
            raise ModelError(
                f"{self.name} has no chat template", hint="use plain texts, without --chat"
            )
        turns = [message.as_dict() for message in messages]
        arguments = self.settings.values
        if unfinished:
            arguments["continue_final_message"] = True
        try:
            with _RENDERING, self._pinned_date(), _bounded(self.name):
                rendered = self.tokenizer.apply_chat_template(
                    turns, tokenize=False, add_generation_prompt=ask, **arguments
                )
        except ModelError:
            raise
        except Exception as error:  # jinja2 raises what the template's author chose
            reason = str(error) or type(error).__name__
            raise ModelError(f"the chat template of {self.name} failed: {reason}") from None
        if len(rendered) > MOST_CHARACTERS:
            raise _too_much(self.name)
        return str(rendered)

    @contextmanager
    def _pinned_date(self) -> Iterator[None]:
        """Templates ask `strftime_now` for the date: here they get the one of the settings."""
        compiled = self._compiled
        if compiled is None:
            yield
            return
        functions = compiled.environment.globals
        usual = functions.get("strftime_now")
        functions["strftime_now"] = self._strftime
        try:
            yield
        finally:
            functions["strftime_now"] = usual

    def _strftime(self, format: str) -> str:
        self.uses_date = True
        return datetime.datetime.combine(self.date, datetime.time()).strftime(format)

    def _around_message(self, turns: tuple[Message, ...], role: str, extra: str) -> tuple[str, str]:
        """What the template puts before a message, all turns before it too, and after it."""
        key = (turns, role, extra)
        if key not in self._around:
            messages = (*turns, Message(role, _STAND_IN, extra))
            parts = self._apply(messages, role != "assistant").split(_STAND_IN)
            if len(parts) != 2:
                raise ModelError(
                    f"the chat template of {self.name} does not give messages as they are",
                    hint="put them into the template yourself, and pass the contrasts as plain"
                    " texts",
                )
            self._around[key] = parts[0], parts[1]
        return self._around[key]

    def _prompt(self, turns: tuple[Message, ...]) -> str | None:
        """What a model would be asked with; None where the template cannot ask there."""
        key = (turns, None)
        if key not in self._around:
            try:
                self._around[key] = self._apply(turns, True), ""
            except ModelError:
                self._around[key] = "", "-"
        prompt, failed = self._around[key]
        return None if failed else prompt

    def _report_other_prompt(self, asked: str | None, start: str, passage: Passage) -> None:
        """Report answers that are read after other text than a prompt ends with."""
        if asked is None or asked.rstrip() == start.rstrip():
            return
        own = Message("assistant", "", passage.extra).fields.values()
        if any(
            isinstance(value, str) and value.strip() and value.strip() in start for value in own
        ):
            return  # the message has thoughts of its own
        same = next(
            (i for i, (a, b) in enumerate(zip(asked, start, strict=False)) if a != b),
            min(len(asked), len(start)),
        )
        advice = ""
        if self.variables and "enable_thinking" in self.variables:
            advice = "; --template-arg enable_thinking=false may make both the same"
        self._report(
            f"the chat template of {self.name} puts {start[same:][-60:]!r} before a given answer,"
            f" where a prompt ends with {asked[same:][-60:]!r}: what is read there may not be"
            f" what steers a new answer{advice}"
        )

    def _report_unused(
        self, messages: Sequence[Message], rendered: str, ask: bool, unfinished: bool = False
    ) -> None:
        """Report fields of messages that make no difference to the `rendered` text."""
        for index, message in enumerate(messages):
            if not message.extra:
                continue
            for name in message.fields:
                if self._looked.get(name, 0) >= _LOOKS:
                    continue
                self._looked[name] = self._looked.get(name, 0) + 1
                without = [*messages]
                without[index] = message.without(name)
                try:
                    is_unused = self._apply(without, ask, unfinished) == rendered
                except ModelError:  # the template needs the field
                    is_unused = False
                if is_unused:
                    self._looked[name] = _LOOKS
                    self._report(
                        f"the chat template of {self.name} does not use {name!r} of a message of"
                        f" the role {message.role}: it is left out"
                    )

    def _report(self, text: str) -> None:
        if text not in self._reported:
            self._reported.add(text)
            self._send_report(text)


#: What every template gets, whatever the settings.
_GIVEN = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token",
     "unk_token", "pad_token", "sep_token", "cls_token", "mask_token",
     "additional_special_tokens", "strftime_now", "raise_exception"}
)  # fmt: skip


def _without_system_role(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The system text before the first user message, or in its place where none comes next."""
    system, *rest = messages
    if rest and rest[0].role == "user":
        first = replace(rest[0], content=f"{system.content}\n\n{rest[0].content}")
        return (first, *rest[1:])
    return (Message("user", system.content), *rest)


def _passage_without_system_role(passage: Passage) -> Passage:
    system, *rest = passage.turns
    if not rest and passage.role == "user":
        return replace(passage, prompt=f"{system.content}\n\n{passage.prompt}", turns=())
    return replace(passage, turns=_without_system_role(passage.turns))


def _indent(text: str) -> int:
    """How many characters `strip` takes off the beginning."""
    return len(text) - len(text.lstrip())


def _cut(passage: Passage, before: str, body: str, after: str, cut: int) -> Passage:
    """The passage as plain text: `body` is its content without the first `cut` characters."""
    start = max(0, len(passage.prompt) - cut)
    stop = len(passage.prompt) + len(passage.text) - cut
    ending = "" if passage.role == "assistant" else after
    return Passage(before + body[:start], body[start:stop], body[stop:] + ending)


@contextmanager
def _bounded(name: str) -> Iterator[None]:
    """Stop a template that takes too much time or memory.

    Raises:
        ModelError: from within the template.
    """
    start, peak, events = time.thread_time(), _peak(), 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal events
        events += 1
        # A text can double in two lines, and looking takes longer than a line of most templates.
        if events % 4 == 0 and _peak() - peak > MOST_GROWTH:
            raise _too_much(name)
        if events % 64 == 0 and time.thread_time() - start > MOST_SECONDS:
            raise _too_much(name)
        # Loops without calls run in the template's own code, line by line.
        return trace if frame.f_code.co_filename == "<template>" else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def _peak() -> int:
    """The most memory that this process has had, in bytes; 0 where the system does not say."""
    if sys.platform == "win32":
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _PEAK_UNIT


def _too_much(name: str) -> ModelError:
    return ModelError(
        f"the chat template of {name} takes too long or gives too much",
        hint="does it loop? see chat_template.jinja beside the model",
    )
