"""Settings of a chat template that a vector file records: its arguments and its date."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from steer.base.errors import UsageError
from steer.vectors.provenance import Read

#: Arguments of `apply_chat_template` that it does not pass to the template.
_RESERVED = frozenset(
    {"conversation", "messages", "chat_template", "add_generation_prompt", "tokenize", "padding",
     "continue_final_message", "truncation", "max_length", "return_tensors", "return_dict",
     "return_assistant_tokens_mask", "tokenizer_kwargs", "processor_kwargs"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TemplateSettings:
    """The arguments of a chat template, a JSON object with sorted keys or "" for none, and the date
    that it may print; None is today.
    """

    arguments: str = ""
    date: datetime.date | None = None

    @property
    def values(self) -> dict[str, Any]:
        """The arguments by name."""
        return dict(json.loads(self.arguments)) if self.arguments else {}

    def __str__(self) -> str:
        parts = [f"{name}={json.dumps(value)}" for name, value in self.values.items()]
        return ", ".join([*parts, *([f"date {self.date}"] if self.date else [])])


#: No arguments, and today's date.
DEFAULT_SETTINGS = TemplateSettings()


def parse_settings(arguments: Sequence[str], date: str | None) -> TemplateSettings:
    """Settings from arguments `NAME=JSON` (anything that is not JSON is a text) and `YYYY-MM-DD`.

    Raises:
        UsageError: a wrong form, a repeated argument, or one that is not the template's.
    """
    values: dict[str, Any] = {}
    for text in arguments:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(
                f"{text!r} is not an argument of a chat template",
                hint="write NAME=JSON, such as enable_thinking=false",
            )
        check_argument(name)
        if name in values:
            raise UsageError(f"the template argument {name} is given twice")
        try:
            values[name] = json.loads(value)
        except (ValueError, RecursionError):
            values[name] = value
    try:
        day = None if date is None else datetime.date.fromisoformat(date)
    except ValueError:
        raise UsageError(f"{date!r} is not a date", hint="write YYYY-MM-DD") from None
    return TemplateSettings(_encoded(values), day)


def check_argument(name: str) -> None:
    """Refuse an argument that is reserved for the rendering itself.

    Raises:
        UsageError: it is reserved.
    """
    if name in _RESERVED:
        raise UsageError(f"{name} is not an argument of the template itself")


def with_arguments(settings: TemplateSettings, arguments: Mapping[str, Any]) -> TemplateSettings:
    """The settings with more arguments, which replace those of the same name.

    Raises:
        UsageError: an argument is reserved.
    """
    for name in arguments:
        check_argument(name)
    return replace(settings, arguments=_encoded(settings.values | dict(arguments)))


def settings_for(
    typed: TemplateSettings, reads: Iterable[tuple[str, Read]]
) -> tuple[TemplateSettings, list[str], list[str]]:
    """The settings to use with some vectors, then notes, and warnings.

    reads: the name of each vector, and how it was read. The user's settings `typed` win. Otherwise
    vectors that were read in a chat give theirs, if they agree.
    """
    reads = list(reads)
    notes: list[str] = []
    warnings: list[str] = []
    in_chat = [(name, _of_read(read)) for name, read in reads if read.chat is True]
    chosen = typed
    differing = {settings.arguments for _, settings in in_chat}
    if typed.arguments:
        warnings += differences(typed, reads)
    elif len(differing) == 1:
        chosen = replace(chosen, arguments=differing.pop())
    elif differing:
        each = "; ".join(f"{name}: {_named(settings)}" for name, settings in in_chat)
        warnings.append(
            f"the vectors were read with different template arguments ({each}); this run uses"
            " none: choose with --template-arg"
        )
    dates = {settings.date for _, settings in in_chat if settings.date is not None}
    if typed.date is None and len(dates) == 1:
        chosen = replace(chosen, date=dates.pop())
    if chosen != typed:
        notes.append(f"the chat template gets {chosen}, as the vectors were read")
    return chosen, notes, warnings


def differences(used: TemplateSettings, reads: Iterable[tuple[str, Read]]) -> list[str]:
    """Warnings about vectors that were read in a chat with other template arguments than `used`.

    reads: the name of each vector, and how it was read.
    """
    return [
        f"vector {name!r} was read with the template arguments {_named(_of_read(read))}, this run"
        f" has {_named(used)}"
        for name, read in reads
        if read.chat is True and _of_read(read).arguments != used.arguments
    ]


def _named(settings: TemplateSettings) -> str:
    return str(replace(settings, date=None)) or "none"


def _of_read(read: Read) -> TemplateSettings:
    arguments = read.template_args if isinstance(read.template_args, dict) else {}
    date = datetime.date.fromisoformat(read.date) if isinstance(read.date, str) else None
    return TemplateSettings(_encoded(arguments), date)


def _encoded(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True) if values else ""
