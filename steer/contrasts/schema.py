"""What contrast files hold: fields, kinds, and how a file is known by the fields that it has.

positive, negative [, prompt]    pairs of texts, or a prompt and two ways to complete it
text, label                      texts of either side, label 1 or 0
text [, prompt]                  texts of one side, or texts for conditions; plain strings too
positive: [...], negative: [...] one JSON object: two sets of texts that are not pairs
the same and texts: [...]        conditions, and the texts that each of them stands before

A text is a string, or chat messages: `[{"role": "user", "content": "..."}, ...]`. Names that others
use are known too (`ALIASES`); any other is given by a mapping. Other fields are left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from steer.base.errors import InputError, UsageError
from steer.contrasts.passages import Message
from steer.contrasts.records import kind_of, names_of, text_value
from steer.vectors.sites import listed

#: Names of each field, the first that a record has is read: ours, anthropics/evals and CAA's,
#: preference data's, and what single texts are often called.
ALIASES: dict[str, tuple[str, ...]] = {
    "positive": ("positive", "answer_matching_behavior", "chosen"),
    "negative": ("negative", "answer_not_matching_behavior", "rejected"),
    "prompt": ("prompt", "question"),
    "text": ("text", "messages", "statement", "instruction"),
    "label": ("label",),
    "texts": ("texts",),
}
_LABELS: dict[Any, bool] = {1: True, 0: False, "1": True, "0": False, "true": True, "false": False}
_WRITE = 'write {"positive": "...", "negative": "..."}, or map fields: --map positive=THEIRS'

Shape = Literal["pairs", "labelled", "texts", "sets", "conditions"]
#: A text as a file has it.
Content = str | tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Names:
    """How a file calls its fields: `mapping` from ours to theirs, else `ALIASES`."""

    mapping: dict[str, str] = field(default_factory=dict)

    @property
    def known(self) -> set[str]:
        """Every name that means something."""
        return {name for names in ALIASES.values() for name in names} | set(self.mapping.values())

    def key(self, record: dict[str, Any], name: str) -> str | None:
        """What a record calls one of our fields, None if it has none such."""
        names = (self.mapping[name],) if name in self.mapping else ALIASES[name]
        return next((one for one in names if one in record), None)

    def shape(self, where: str, record: Any) -> Shape:
        """What kind of record this is.

        Raises:
            InputError: none; it names the fields that are there.
        """
        if isinstance(record, str | list):
            return "texts"
        if not isinstance(record, dict):
            raise InputError(f"{where}: a {kind_of(record)}, not an object", hint=_WRITE)
        for name, theirs in self.mapping.items():
            if theirs not in record:
                raise InputError(
                    f"{where}: there is no field {theirs!r}; it has {names_of(record)}",
                    hint=f"--map {name}= takes one of these",
                )
        has = {name for name in ALIASES if self.key(record, name) is not None}
        if {"positive", "negative"} <= has:
            sides = [record[self.key(record, name) or ""] for name in ("positive", "negative")]
            if "texts" in has:
                return "conditions"
            return "sets" if all(_is_list_of_texts(side) for side in sides) else "pairs"
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

    def content(self, where: str, record: Any, name: str) -> Content:
        """The text or the messages in one of our fields.

        Raises:
            InputError: the record has no such field, or it is neither.
        """
        if not isinstance(record, dict):
            return content(where, record, "the text")
        key = self.key(record, name)
        if key is None:
            raise InputError(
                f"{where}: there is no field {name!r}; it has {names_of(record)}", hint=_WRITE
            )
        return content(where, record[key], repr(key))

    def label(self, where: str, record: dict[str, Any]) -> bool:
        """Whether a labelled text is of the positive side.

        Raises:
            InputError: there is no label, or it is neither 1 nor 0.
        """
        key = self.key(record, "label")
        if key is None:
            raise InputError(f"{where}: there is no field 'label'; it has {names_of(record)}")
        value = record[key]
        plain = value.strip().lower() if isinstance(value, str) else value
        if isinstance(plain, list | dict) or plain not in _LABELS:
            raise InputError(
                f"{where}: the label is {str(value)[:40]!r}", hint="labels are 1 (positive) and 0"
            )
        return _LABELS[plain]


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
    made = []
    for turn in value:
        if not isinstance(turn, dict) or not {"role", "content"} <= set(turn):
            raise InputError(
                f"{where}: {subject} is a list, but not of chat messages",
                hint='write [{"role": "user", "content": "..."}]',
            )
        parts = (text_value(where, turn[key], f"{key!r} in {subject}") for key in Message.__slots__)
        made.append(Message(*parts))
    if not made or not made[-1].content.strip():
        raise InputError(f"{where}: {subject} is empty, or its last message is")
    return tuple(made)


def parse_mapping(texts: Sequence[str]) -> Names:
    """Names from `OURS=THEIRS`, each.

    Raises:
        UsageError: not of that form, an unknown field, or one twice.
    """
    mapping: dict[str, str] = {}
    for text in texts:
        name, equals, theirs = text.partition("=")
        if not equals or not theirs or name not in ALIASES:
            raise UsageError(
                f"{text!r} maps no field",
                hint=f"write OURS=THEIRS; ours are {listed(ALIASES)}",
            )
        if name in mapping:
            raise UsageError(f"{name} is mapped twice")
        mapping[name] = theirs
    return Names(mapping)


def _is_list_of_texts(value: Any) -> bool:
    """A list that is no conversation."""
    if not isinstance(value, list) or not value:
        return False
    return not (isinstance(value[0], dict) and "role" in value[0])
