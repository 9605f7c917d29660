"""Contrasting texts: read from files, checked, and hashed.

A passage is a prompt and the text that follows it; activations of the text are read. A pair is two
passages that differ in what the vector should carry. Two kinds:

pairs       JSONL or a JSON list of `{"positive": "...", "negative": "...", "prompt": "..."}`, the
            shared `prompt` optional; other names by `Fields`
conditions  the same texts (`{"text": "..."}` or plain strings) after two prompts
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from steer.errors import InputError
from steer.provenance import ContrastKind
from steer.records import Record, records, text_field


@dataclass(frozen=True, slots=True)
class Passage:
    """`prompt` comes first; `text` is what is read."""

    prompt: str
    text: str

    @property
    def whole(self) -> str:
        return self.prompt + self.text


@dataclass(frozen=True, slots=True)
class ContrastPair:
    """Two passages that differ.

    Raises:
        InputError: a side is empty, or both are the same.
    """

    positive: Passage
    negative: Passage

    def __post_init__(self) -> None:
        for side, passage in (("positive", self.positive), ("negative", self.negative)):
            if not passage.text.strip():
                raise InputError(f"the {side} text is empty")
        if self.positive.whole == self.negative.whole:
            raise InputError("positive and negative are the same text")


@dataclass(frozen=True, slots=True)
class Contrasts:
    """A whole contrast set. `conditions` are the two prompts, where the kind is that.

    Raises:
        InputError: it is empty.
    """

    kind: ContrastKind
    pairs: tuple[ContrastPair, ...]
    conditions: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if not self.pairs:
            raise InputError("there are no contrasts", hint="each line is one JSON object")

    @property
    def sha256(self) -> str:
        """Hash of all passages in order."""
        digest = hashlib.sha256()
        for pair in self.pairs:
            sides = [[side.prompt, side.text] for side in (pair.positive, pair.negative)]
            digest.update(json.dumps(sides).encode() + b"\n")
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields of a record hold what; others are ignored.

    For anthropics/evals: `Fields("answer_matching_behavior", "answer_not_matching_behavior",
    "question")`.
    """

    positive: str = "positive"
    negative: str = "negative"
    prompt: str | None = None


_KNOWN = ("positive", "negative", "prompt")


def pairs(data: bytes, source: str, fields: Fields | None = None) -> Contrasts:
    """Pairs from the bytes of a JSONL or JSON file named `source`.

    Without `fields`, a record has `positive`, `negative` and perhaps `prompt`, and no other: one
    that was not read could have been meant.

    Raises:
        InputError: naming the file, the line and what is wrong.
    """
    return Contrasts("pairs", tuple(_pair(record, fields) for record in records(data, source)))


def conditions(data: bytes, source: str, positive: str, negative: str) -> Contrasts:
    """The texts of a file, each after two prompt conditions. A condition is joined by a space.

    Raises:
        InputError: naming the file, the line and what is wrong, or that the conditions are equal.
    """
    prompts = (joinable(positive), joinable(negative))
    if prompts[0] == prompts[1]:
        raise InputError("the positive and the negative condition are the same")
    made = []
    for where, record in records(data, source):
        text = record if isinstance(record, str) else text_field(where, record, "text")
        if not text.strip():
            raise InputError(f"{where}: the text is empty")
        made.append(ContrastPair(Passage(prompts[0], text), Passage(prompts[1], text)))
    return Contrasts("conditions", tuple(made), (positive, negative))


def joinable(condition: str) -> str:
    """A condition as it stands before a text: with a space, unless it ends in white space."""
    return condition if not condition or condition[-1].isspace() else condition + " "


def _pair(record: Record, fields: Fields | None) -> ContrastPair:
    where, raw = record
    if fields is None:
        fields = Fields(prompt="prompt" if isinstance(raw, dict) and "prompt" in raw else None)
        unknown = sorted(set(raw) - set(_KNOWN)) if isinstance(raw, dict) else []
        if unknown and {"positive", "negative"} <= set(raw):
            raise InputError(
                f"{where}: unknown field {unknown[0]!r}",
                hint="remove it, or say which fields to read with --positive-field and so on",
            )
    positive, negative = (
        text_field(where, raw, name) for name in (fields.positive, fields.negative)
    )
    prompt = text_field(where, raw, fields.prompt) if fields.prompt is not None else ""
    try:
        return ContrastPair(Passage(prompt, positive), Passage(prompt, negative))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
