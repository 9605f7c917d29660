"""What contrast files hold: fields, kinds, and how a file is known by the fields that it has.

positive, negative [, prompt]    pairs of texts, or a prompt and two ways to complete it; a list of
                                 texts in place of one gives several pairs (`Names.lists`)
text, label                      texts of either side, label 1 or 0
text [, prompt]                  texts of one side, or texts for conditions; plain strings too
positive: [...], negative: [...] one JSON object: two sets of texts that are not pairs
the same and texts: [...]        conditions, and the texts that each of them stands before

A text is a string, or chat messages: `[{"role": "user", "content": "..."}, ...]`. Names that others
use are known too (`ALIASES`); any other is given by a mapping. Other fields are left alone.
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

#: Names of each field, of which the first that a record has is read: ours, those of
#: anthropics/evals, CAA, preference data and TruthfulQA, and what single texts are often called.
ALIASES: dict[str, tuple[str, ...]] = {
    "positive": ("positive", "answer_matching_behavior", "chosen", "correct_answers"),
    "negative": ("negative", "answer_not_matching_behavior", "rejected", "incorrect_answers"),
    "prompt": ("prompt", "question"),
    "text": ("text", "messages", "statement", "instruction", "sentence", "goal"),
    "label": ("label",),
    "texts": ("texts",),
}
#: Where single prompts are read, more names of them; the first that a record has is read.
PROMPT_ALIASES = ("prompt", "question", "instruction", "goal", "query", "input")
#: The files that a mapping can be for, where a command reads several.
FILES = ("positive", "negative", "texts", "prompts", "unrelated")

#: What a record with a list of positive or negative texts becomes: a pair of each positive and each
#: negative text, the pair of the first ones, or (in one object that is the whole file) two sets.
Lists = Literal["all", "first", "sets"]

_LABELS = {"1": True, "0": False, "true": True, "false": False,
           "positive": True, "negative": False}  # fmt: skip
_WRITE = 'write {"positive": "...", "negative": "..."}, or map fields: --map positive=THEIRS'

Shape = Literal["pairs", "labelled", "texts", "sets", "conditions"]
#: A text as a file has it.
Content = str | tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Names:
    """How a file is to be read: what it calls its fields, labels and lists.

    mapping: from our field names to the file's; `ALIASES` hold for the others. for_file: mappings
    for one of `FILES` alone, which win. positive_labels, negative_labels: the values of `label` on
    either side; where only one side is named, every other value is on the other; where both are,
    rows with other values are left out. lists: what becomes of lists of texts. split: cuts texts of
    `positive` and `negative` into lists, as tables cannot hold any.

    Raises:
        UsageError: a label on both sides, or a separator that is empty.
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
                f"{self.lists!r} is nothing to do with lists",
                hint=f"use {listed(get_args(Lists))}",
            )
        if self.split == "":
            raise UsageError("the separator of --split is empty", hint="write --split ';'")

    def of(self, file: str) -> Names:
        """The names that hold for one of `FILES`."""
        own = self.for_file.get(file, {})
        return replace(self, mapping=self.mapping | own, for_file={})

    @property
    def known(self) -> set[str]:
        """Every name that means something."""
        known = {name for names in ALIASES.values() for name in names} | set(PROMPT_ALIASES)
        for mapping in (self.mapping, *self.for_file.values()):
            known |= set(mapping.values())
        return known

    def check_files(self, *files: str) -> None:
        """Refuse a mapping for a file that is not among those that are read.

        Raises:
            UsageError: there is one.
        """
        for file in self.for_file:
            if file not in files:
                raise UsageError(
                    f"--map {file}: is for a file that is not read here",
                    hint="write OURS=THEIRS without it"
                    + (f", or one of {listed(files)} before it" if files else ""),
                )

    def key(self, record: dict[str, Any], name: str) -> str | None:
        """What a record calls one of our fields, None if it does not have it."""
        names = (self.mapping[name],) if name in self.mapping else ALIASES[name]
        return next((one for one in names if one in record), None)

    def shape(self, where: str, record: Any) -> Shape:
        """What kind of record this is.

        Raises:
            InputError: none that is known; it names the fields that are there.
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
        raise InputError(f"{where}: no contrast; it has the fields {names_of(record)}", hint=hint)

    def check_mapped(self, where: str, record: dict[str, Any]) -> None:
        """Refuse a record that lacks a field which the mapping names.

        Raises:
            InputError: naming the fields that are there.
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
            InputError: the record has no such field, or it is neither.
        """
        if not isinstance(record, dict):
            return content(where, record, "the text")
        key = self._required(where, record, name)
        return content(where, record[key], repr(key))

    def contents(self, where: str, record: dict[str, Any], name: str) -> list[Content]:
        """The texts in one of our fields: of a list each, of a text what `split` makes of it.

        Raises:
            InputError: the record has no such field, or it holds no text, or something else.
        """
        key = self._required(where, record, name)
        value = record[key]
        if self.split is not None and isinstance(value, str):
            value = [part.strip() for part in value.split(self.split) if part.strip()]
        if not _is_list_of_texts(value):
            return [content(where, value, repr(key))]
        if self.lists == "first":
            value = value[:1]
        return [content(where, one, f"{key!r}, number {n}") for n, one in enumerate(value, 1)]

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
            {_label_key(one) for one in labels}
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
    """A text, or chat messages, as they stand in a file.

    Raises:
        InputError: neither, or empty.
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
    said = turn["content"]
    if said is None and others:  # of tool calls, which say nothing
        said = ""
    elif isinstance(said, list) and all(_is_text_part(part) for part in said):
        said = "".join(part["text"] for part in said)
    said = text_value(where, said, f"'content' in {subject}")
    used = {name: value for name, value in others.items() if value is not None}
    return Message(role, said, json.dumps(used, sort_keys=True) if used else "")


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
        UsageError: not of that form, an unknown field or file, one twice, or as `Names`.
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
    """A label as it is compared: numbers by their value, texts without case and outer blanks."""
    text = str(value).strip().casefold()
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else str(number)


def _is_list_of_texts(value: Any) -> bool:
    """A list that is not one conversation."""
    if not isinstance(value, list) or not value:
        return False
    return not (isinstance(value[0], dict) and "role" in value[0])
