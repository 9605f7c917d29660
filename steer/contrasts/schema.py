"""The fields of contrast files, and the kind of file that a set of fields means.

positive, negative [, prompt]    pairs of texts, or a prompt with two completions; a list of texts
                                 in place of one gives several pairs (`Names.lists`)
text, label                      texts of either side, label 1 or 0
text [, prompt]                  texts of one side, or texts for conditions; plain strings too
positive: [...], negative: [...] one JSON object: two sets of texts that are not pairs
the same with texts: [...]       conditions, and the texts to put after each

A text is a string, or chat messages: `[{"role": "user", "content": "..."}, ...]`. The names that
well-known datasets use work too (`ALIASES`); a mapping gives any others. Other fields are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from steer.base.errors import InputError, UsageError
from steer.contrasts.passages import Message
from steer.contrasts.records import kind_of, names_of, text_value
from steer.vectors.sites import listed

#: Names of each field: ours, those of anthropics/evals, CAA, preference data and TruthfulQA, and
#: common names of single texts. The first that a record has is read.
ALIASES: dict[str, tuple[str, ...]] = {
    "positive": ("positive", "answer_matching_behavior", "chosen", "correct_answers"),
    "negative": ("negative", "answer_not_matching_behavior", "rejected", "incorrect_answers"),
    "prompt": ("prompt", "question"),
    "text": ("text", "messages", "statement", "instruction", "sentence", "goal"),
    "label": ("label",),
    "texts": ("texts",),
}
#: Names of a prompt in files of prompts; the first that a record has is read.
PROMPT_ALIASES = ("prompt", "question", "instruction", "goal", "query", "input")
#: Files that a mapping can name where a command reads several.
FILES = ("positive", "negative", "texts", "prompts", "unrelated")

#: What a record with a list of positive or negative texts becomes: a pair of each positive and each
#: negative text, the pair of the first ones, or (in one object that is the whole file) two sets.
Lists = Literal["all", "first", "sets"]

_LABELS = {"1": True, "0": False, "true": True, "false": False,
           "positive": True, "negative": False}  # fmt: skip
_WRITE = 'write {"positive": "...", "negative": "..."}, or map fields: --map positive=THEIRS'

Shape = Literal["pairs", "labelled", "texts", "sets", "conditions"]
#: A text in a file: a string or chat messages.
Content = str | tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Names:
    """The field names and labels of a file, and the treatment of its lists.

    mapping: from our field names to the file's; `ALIASES` hold for the others. for_file: mappings
    for one of `FILES` only, which take precedence. positive_labels, negative_labels: the values of
    `label` for each side. If only one side has values, all others belong to the other side; if both
    have, rows with other values are left out. lists: how lists of texts are read. split: a
    separator that divides texts of `positive` and `negative` into lists, for tables.

    Raises:
        UsageError: a label on both sides, or an empty separator.
    """

    mapping: dict[str, str] = field(default_factory=dict)
    for_file: dict[str, dict[str, str]] = field(default_factory=dict)
    positive_labels: tuple[str, ...] = ()
    negative_labels: tuple[str, ...] = ()
    lists: Lists | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        for value in map(_label_key, self.positive_labels):
            if value in map(_label_key, self.negative_labels):
                raise UsageError(f"the label {value!r} is on both sides")
        if self.lists is not None and self.lists not in get_args(Lists):
            raise UsageError(
                f"{self.lists!r} is not a way to read lists",
                hint=f"use {listed(get_args(Lists))}",
            )
        if self.split == "":
            raise UsageError("the separator of --split is empty", hint="write --split ';'")

    def of(self, file: str) -> Names:
        """The names for one of `FILES`, with its own mapping applied."""
        own = self.for_file.get(file, {})
        return replace(self, mapping=self.mapping | own, for_file={})

    @property
    def known(self) -> set[str]:
        """Every field name that is recognised."""
        known = {name for names in ALIASES.values() for name in names} | set(PROMPT_ALIASES)
        for mapping in (self.mapping, *self.for_file.values()):
            known |= set(mapping.values())
        return known

    def check_files(self, *files: str) -> None:
        """Refuse mappings for files other than these.

        Raises:
            UsageError: a mapping is for another file.
        """
        for file in self.for_file:
            if file not in files:
                raise UsageError(
                    f"--map {file}: is for a file that is not read here",
                    hint="write OURS=THEIRS without it"
                    + (f", or one of {listed(files)} before it" if files else ""),
                )

    def key(self, record: dict[str, Any], name: str) -> str | None:
        """The record's name for one of our fields; None if it has no such field."""
        names = (self.mapping[name],) if name in self.mapping else ALIASES[name]
        return next((alias for alias in names if alias in record), None)

    def shape(self, where: str, record: Any) -> Shape:
        """The kind of a record.

        Raises:
            InputError: the fields fit no kind; the message names them.
        """
        if isinstance(record, str | list):
            return "texts"
        if not isinstance(record, dict):
            raise InputError(f"{where}: a {kind_of(record)}, not an object", hint=_WRITE)
        self.check_mapped(where, record)
        has = {name for name in ALIASES if self.key(record, name) is not None}
        if {"positive", "negative"} <= has:
            if "texts" in has:
                return "conditions"
            sides = [record[self.key(record, name) or ""] for name in ("positive", "negative")]
            may_be_sets = "prompt" not in has and all(map(_is_list_of_texts, sides))
            return "sets" if may_be_sets and self.lists in (None, "sets") else "pairs"
        for name, other in (("positive", "negative"), ("negative", "positive")):
            if name in has:
                raise InputError(
                    f"{where}: there is no field {other!r}; it has {names_of(record)}", hint=_WRITE
                )
        if "text" in has:
            return "labelled" if "label" in has else "texts"
        if "prompt" in has:
            return "texts"
        lists = [name for name, value in record.items() if _is_list_of_texts(value)]
        if len(lists) == 2:
            hint = f"which is which? --map positive={lists[0]} --map negative={lists[1]}, say"
        else:
            hint = _WRITE
        raise InputError(
            f"{where}: not a contrast; it has the fields {names_of(record)}", hint=hint
        )

    def check_mapped(self, where: str, record: dict[str, Any]) -> None:
        """Refuse a record that lacks a field which the mapping names.

        Raises:
            InputError: a field is missing; the message names those of the record.
        """
        for name, theirs in self.mapping.items():
            if theirs not in record:
                raise InputError(
                    f"{where}: there is no field {theirs!r}; it has {names_of(record)}",
                    hint=f"--map {name}= takes one of these; for one file alone write, say,"
                    f" --map negative:{name}=...",
                )

    def content(self, where: str, record: Any, name: str) -> Content:
        """The text or the messages in one of our fields.

        Raises:
            InputError: the record has no such field, or it is neither text nor messages.
        """
        if not isinstance(record, dict):
            return content(where, record, "the text")
        key = self._required(where, record, name)
        return content(where, record[key], repr(key))

    def contents(self, where: str, record: dict[str, Any], name: str) -> list[Content]:
        """The texts in one of our fields: the items of a list, or a text divided by `split`.

        Raises:
            InputError: the record has no such field, or it holds no texts.
        """
        key = self._required(where, record, name)
        value = record[key]
        if self.split is not None and isinstance(value, str):
            value = [part.strip() for part in value.split(self.split) if part.strip()]
        if not _is_list_of_texts(value):
            return [content(where, value, repr(key))]
        if self.lists == "first":
            value = value[:1]
        return [content(where, item, f"{key!r}, number {n}") for n, item in enumerate(value, 1)]

    def _required(self, where: str, record: dict[str, Any], name: str) -> str:
        key = self.key(record, name)
        if key is None:
            raise InputError(
                f"{where}: there is no field {name!r}; it has {names_of(record)}", hint=_WRITE
            )
        return key

    def label(self, where: str, record: dict[str, Any]) -> bool | None:
        """Whether a labelled text is on the positive side; None if it is on neither.

        Raises:
            InputError: there is no label, or its side is not known.
        """
        key = self.key(record, "label")
        if key is None:
            raise InputError(f"{where}: there is no field 'label'; it has {names_of(record)}")
        value = record[key]
        if isinstance(value, list | dict):
            raise InputError(f"{where}: the label is a {kind_of(value)}")
        plain = _label_key(value)
        positive, negative = (
            {_label_key(label) for label in labels}
            for labels in (self.positive_labels, self.negative_labels)
        )
        if not positive and not negative:
            if plain in _LABELS:
                return _LABELS[plain]
            raise InputError(
                f"{where}: the label is {str(value)[:40]!r}",
                hint="labels are 1 (positive) and 0; others are named:"
                " --positive-label VALUE --negative-label VALUE",
            )
        if plain in positive:
            return True
        if plain in negative:
            return False
        return None if positive and negative else not positive


def content(where: str, value: Any, subject: str) -> Content:
    """A text or chat messages from a value of a file.

    Raises:
        InputError: the value is neither, or empty.
    """
    if not isinstance(value, list):
        text = text_value(where, value, subject)
        if not text.strip():
            raise InputError(f"{where}: {subject} is empty")
        return text
    messages = []
    for turn in value:
        if not isinstance(turn, dict) or not {"role", "content"} <= set(turn):
            raise InputError(
                f"{where}: {subject} is a list, but not of chat messages",
                hint='write [{"role": "user", "content": "..."}]',
            )
        messages.append(_message(where, turn, subject))
    if not messages or not messages[-1].content.strip():
        raise InputError(f"{where}: {subject} is empty, or its last message is")
    return tuple(messages)


def _message(where: str, turn: dict[str, Any], subject: str) -> Message:
    role = text_value(where, turn["role"], f"'role' in {subject}")
    others = {name: value for name, value in turn.items() if name not in ("role", "content")}
    text = turn["content"]
    if text is None and others:  # a message of tool calls has no text
        text = ""
    elif isinstance(text, list) and all(_is_text_part(part) for part in text):
        text = "".join(part["text"] for part in text)
    text = text_value(where, text, f"'content' in {subject}")
    used = {name: value for name, value in others.items() if value is not None}
    return Message(role, text, json.dumps(used, sort_keys=True) if used else "")


def _is_text_part(part: Any) -> bool:
    """Whether a part of a message's content is a text, as OpenAI's API writes it."""
    return (
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    )


def parse_mapping(
    texts: Sequence[str],
    *,
    positive_labels: Sequence[str] = (),
    negative_labels: Sequence[str] = (),
    lists: str | None = None,
    split: str | None = None,
) -> Names:
    """Names from mappings, each `OURS=THEIRS` or, for one file alone, `FILE:OURS=THEIRS`.

    Raises:
        UsageError: a mapping is not of that form, has an unknown field or file, or maps a field
            twice; or as `Names`.
    """
    mapping: dict[str, str] = {}
    for_file: dict[str, dict[str, str]] = {}
    for text in texts:
        ours, equals, theirs = text.partition("=")
        file, colon, name = ours.rpartition(":")
        if not equals or not theirs or name not in ALIASES or (colon and file not in FILES):
            raise UsageError(
                f"{text!r} maps no field",
                hint=f"write OURS=THEIRS; ours are {listed(ALIASES)};"
                f" or FILE:OURS=THEIRS, where FILE is one of {listed(FILES)}",
            )
        chosen = for_file.setdefault(file, {}) if colon else mapping
        if name in chosen:
            raise UsageError(f"{ours} is mapped twice")
        chosen[name] = theirs
    return Names(
        mapping,
        for_file,
        tuple(positive_labels),
        tuple(negative_labels),
        lists,  # type: ignore[arg-type]  # `Names` checks it
        split,
    )


def _label_key(value: object) -> str:
    """A label normalised for comparison: numbers by value, texts without case and outer blanks."""
    text = str(value).strip().casefold()
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else str(number)


def _is_list_of_texts(value: Any) -> bool:
    """Whether a value is a list of texts, not one conversation."""
    if not isinstance(value, list) or not value:
        return False
    return not (isinstance(value[0], dict) and "role" in value[0])
