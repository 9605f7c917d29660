"""Chat templates: render messages as the text that a model was trained on.

A template depends on arguments such as `enable_thinking`, and often on the date. Both are settings
(`TemplateSettings`), so that the same settings give the same text. Surprising behaviour of a
template is reported once, by default in the log `steer.models.templates`.
"""

from __future__ import annotations

import datetime
import gc
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
#: Limits of a template: CPU seconds, growth of the process in bytes, and characters of output.
MOST_SECONDS, MOST_GROWTH, MOST_CHARACTERS = 5.0, 1_000_000_000, 50_000_000
#: Placeholder for a message, to find the text that the template puts round it.
_STAND_IN = "steer0message0"
_SYSTEM, _USER = "steer0system0", "steer0user0"
#: How many messages with an extra field are checked for whether the template uses it.
_LOOKS = 8
#: Tokenizers with the same template share its compiled environment.
_RENDERING = threading.RLock()
_log = logging.getLogger(__name__)


class ChatTemplate:
    """The chat template of a tokenizer, with settings; `name` is the model's, for messages.

    `report` is called once for each surprise, with a sentence for the user. `uses_date`: whether
    anything rendered so far depends on the date.
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
        self._checks: dict[str, int] = {}
        self._around: dict[tuple[object, ...], tuple[str, str]] = {}

    @property
    def exists(self) -> bool:
        """Whether the tokenizer has a template. Mistral's own tokenizers have theirs in code."""
        if getattr(self.tokenizer, "chat_template", None):
            return True
        return type(self.tokenizer).__name__.startswith("MistralCommon")

    @property
    def recorded(self) -> dict[str, Any]:
        """The settings that a vector file records (`Read`), without those that had no effect."""
        kept: dict[str, Any] = {}
        if self.settings.arguments:
            kept["template_args"] = self.settings.values
        if self.uses_date:
            kept["date"] = self.date.isoformat()
        return kept

    @property
    def key(self) -> list[Any]:
        """The settings that affect the rendered text, as a cache key."""
        dated = "strftime_now" in str(getattr(self.tokenizer, "chat_template", ""))
        return [self.settings.arguments, self.date.isoformat() if dated else None]

    def render(
        self, messages: Sequence[Message], *, ask: bool = True, unfinished: bool = False
    ) -> str:
        """Render messages; with `ask`, up to where the next answer begins.

        With `unfinished` (and `ask` off) the text ends with the last message, for the model to
        continue. If the template has no system role, a system message is put before the first user
        message.

        Raises:
            ModelError: there is no template, it refuses the messages, or it exceeds the limits of
                time or memory.
        """
        if messages and messages[0].role == "system" and not self.has_system_role:
            messages = _without_system_role(messages)
        rendered = self._apply(messages, ask, unfinished)
        self._report_unused(messages, rendered, ask, unfinished)
        return rendered

    def passages(self, passages: Sequence[Passage]) -> Iterator[Passage]:
        """Passages as plain text; messages are rendered in the chat template.

        The text that a template puts after an answer, such as the end of the turn, is left out,
        since activations are read as they are during generation.

        Raises:
            ModelError: as `render`; or the template changes the text of the message.
        """
        for passage in passages:
            yield passage if passage.role is None else self._passage(passage)

    def _passage(self, passage: Passage) -> Passage:
        assert passage.role is not None
        if passage.turns and passage.turns[0].role == "system" and not self.has_system_role:
            passage = _passage_without_system_role(passage)
        assert passage.role is not None
        ask = passage.role != "assistant"
        messages = (*passage.turns, Message(passage.role, passage.full_text, passage.extra))
        rendered = self._apply(messages, ask)
        self._report_unused(messages, rendered, ask)
        before, after = self._around_message(passage.turns, passage.role, passage.extra)
        prompt = self._prompt(passage.turns) if passage.role == "assistant" else None
        # A template may put an empty thought before an answer that has no thought of its own.
        for start in dict.fromkeys((before, before if prompt is None else prompt)):
            for cut, body in (
                (0, passage.full_text),
                (_indent(passage.full_text), passage.full_text.strip()),
            ):
                if rendered == start + body + after:
                    self._report_other_prompt(prompt, start, passage)
                    return _cut(passage, start, body, after, cut)
        hint = "apply the template yourself, and pass the contrasts as plain texts"
        if "<think>" in passage.full_text:
            hint = "write the thoughts as a field of the message: reasoning_content"
        raise ModelError(
            f"the chat template of {self.name} changes the text of messages", hint=hint
        )

    @cached_property
    def has_system_role(self) -> bool:
        """Whether the template accepts a system message; if not, that is reported."""
        try:
            rendered = self._apply((Message("system", _SYSTEM), Message("user", _USER)), True)
        except ModelError:
            rendered = ""
        if _SYSTEM in rendered:
            return True
        self._apply((Message("user", _USER),), True)  # raises if the template always fails
        self._report(
            f"the chat template of {self.name} has no system role: system messages go before the"
            " first user message"
        )
        return False

    @cached_property
    def variables(self) -> frozenset[str] | None:
        """The arguments that the template uses; None if that is unknown."""
        compiled = self._compiled
        if compiled is None:
            return None
        from jinja2 import meta

        source = self.tokenizer.get_chat_template()
        undeclared = meta.find_undeclared_variables(compiled.environment.parse(source))
        return frozenset(undeclared) - set(compiled.environment.globals) - _GIVEN

    @cached_property
    def _set_inside(self) -> set[str]:
        """Variables that the template assigns itself."""
        from jinja2 import nodes

        parsed = self._compiled.environment.parse(self.tokenizer.get_chat_template())
        return {name.name for name in parsed.find_all(nodes.Name) if name.ctx == "store"}

    def check_arguments(self) -> None:
        """Report arguments that the template does not use."""
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
        """The compiled template, which transformers caches and uses too; None if there is none."""
        from transformers.utils import chat_template_utils

        compiler = getattr(chat_template_utils, "_compile_jinja_template", None)
        if compiler is None or not getattr(self.tokenizer, "chat_template", None):
            return None
        try:
            return compiler(self.tokenizer.get_chat_template())
        except Exception:  # rendering will report the fault
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
        """Make `strftime_now`, from which templates get the date, return that of the settings."""
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
        """The text before a message, with all earlier turns, and the text after it."""
        key = (turns, role, extra)
        if key not in self._around:
            messages = (*turns, Message(role, _STAND_IN, extra))
            parts = self._apply(messages, role != "assistant").split(_STAND_IN)
            if len(parts) != 2:
                raise ModelError(
                    f"the chat template of {self.name} changes the text of messages",
                    hint="apply the template yourself, and pass the contrasts as plain texts",
                )
            self._around[key] = parts[0], parts[1]
        return self._around[key]

    def _prompt(self, turns: tuple[Message, ...]) -> str | None:
        """The prompt for an answer after these turns; None if the template does not allow one."""
        key = (turns, None)
        if key not in self._around:
            try:
                self._around[key] = self._apply(turns, True), ""
            except ModelError:
                self._around[key] = "", "-"
        prompt, failed = self._around[key]
        return None if failed else prompt

    def _report_other_prompt(self, prompt: str | None, start: str, passage: Passage) -> None:
        """Report that the text before a given answer differs from the prompt for a new answer."""
        if prompt is None or prompt.rstrip() == start.rstrip():
            return
        own = Message("assistant", "", passage.extra).fields.values()
        if any(
            isinstance(value, str) and value.strip() and value.strip() in start for value in own
        ):
            return  # the message has thoughts of its own
        same = next(
            (i for i, (a, b) in enumerate(zip(prompt, start, strict=False)) if a != b),
            min(len(prompt), len(start)),
        )
        advice = ""
        if self.variables and "enable_thinking" in self.variables:
            advice = "; --template-arg enable_thinking=false may make both the same"
        self._report(
            f"the chat template of {self.name} puts {start[same:][-60:]!r} before a given answer,"
            f" but a prompt ends with {prompt[same:][-60:]!r}: activations of given answers may"
            f" differ from those of new ones{advice}"
        )

    def _report_unused(
        self, messages: Sequence[Message], rendered: str, ask: bool, unfinished: bool = False
    ) -> None:
        """Report fields of messages that the template does not use."""
        for index, message in enumerate(messages):
            if not message.extra:
                continue
            for name in message.fields:
                if self._checks.get(name, 0) >= _LOOKS:
                    continue
                self._checks[name] = self._checks.get(name, 0) + 1
                without = [*messages]
                without[index] = message.without(name)
                try:
                    is_unused = self._apply(without, ask, unfinished) == rendered
                except ModelError:  # the template needs the field
                    is_unused = False
                if is_unused:
                    self._checks[name] = _LOOKS
                    self._report(
                        f"the chat template of {self.name} ignores {name!r} of a message of the"
                        f" role {message.role}"
                    )

    def _report(self, text: str) -> None:
        if text not in self._reported:
            self._reported.add(text)
            self._send_report(text)


#: Variables that every template gets.
_GIVEN = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token",
     "unk_token", "pad_token", "sep_token", "cls_token", "mask_token",
     "additional_special_tokens", "strftime_now", "raise_exception"}
)  # fmt: skip


def _without_system_role(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Messages with the system text put before the first user message, or as one of its own."""
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
    """The number of leading white-space characters."""
    return len(text) - len(text.lstrip())


def _cut(passage: Passage, before: str, body: str, after: str, cut: int) -> Passage:
    """The passage as plain text. body: its content without the first `cut` characters."""
    start = max(0, len(passage.prompt) - cut)
    stop = max(start, len(passage.prompt) + len(passage.text) - cut)
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
        # A text can double in two lines, but checking takes longer than a line of most templates.
        if events % 4 == 0 and _peak() - peak > MOST_GROWTH:
            raise _too_much(name)
        if events % 64 == 0 and time.thread_time() - start > MOST_SECONDS:
            raise _too_much(name)
        # Loops without calls run in the template's own code, line by line.
        return trace if frame.f_code.co_filename == "<template>" else None

    # Finalizers that a collection runs are not the template's: an error in one of them is lost.
    before, collects = sys.gettrace(), gc.isenabled()
    gc.disable()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
        if collects:
            gc.enable()


def _peak() -> int:
    """The peak memory of this process in bytes; 0 if the system does not report it."""
    if sys.platform == "win32":
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _PEAK_UNIT


def _too_much(name: str) -> ModelError:
    return ModelError(
        f"the chat template of {name} takes too long or produces too much text",
        hint="look for an endless loop in chat_template.jinja of the model",
    )
