"""Contrasts from files: each kind that `schema` knows, record by record."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from steer.base.errors import InputError
from steer.contrasts.contrasts import Contrasts, ContrastSource
from steer.contrasts.frame import Frame
from steer.contrasts.passages import Passage, check_alike
from steer.contrasts.records import Record, kind_of
from steer.contrasts.schema import Content, Names, Shape, content
from steer.vectors.provenance import ContrastKind

#: An answer that picks one of the choices.
_OPTION = re.compile(r"\s*(\(?[A-Za-z0-9]\)?[.:]?|yes|no|true|false)\.?\s*", re.IGNORECASE)
#: Where in its file a record stands.
_PLACE = re.compile(r"(:\d+|, [a-z]+ \d+)$")


def read(source: ContrastSource, records_of: Callable[[str], Iterable[Record]]) -> Contrasts:
    """The contrasts that the user named; `records_of` gives the records of a file.

    Raises:
        InputError: naming the file, the line and what is wrong.
        SteerError: a file that cannot be read.
    """
    reader = _Reader(source.names, source.frame)
    if source.file is not None:
        return reader.contrasts(records_of(source.file))
    if source.texts is not None:
        sides = source.positive, source.negative or ("",)
        return reader.conditions(reader.texts(records_of(source.texts)), *sides)
    assert source.positive_file is not None and source.negative_file is not None
    positive, negative = (
        reader.texts(records_of(file)) for file in (source.positive_file, source.negative_file)
    )
    return reader.sets(positive, negative, paired=source.paired)


def read_texts(
    records: Iterable[Record], names: Names, frame: Frame
) -> tuple[tuple[Passage, ...], tuple[str, ...]]:
    """Texts of one side, in a frame; and notes of what was left out.

    Raises:
        InputError: naming the line and what is wrong.
    """
    reader = _Reader(names, frame)
    made = tuple(frame.passage(*one) for one in reader.texts(records))
    if not made:
        raise InputError("there are no texts")
    check_alike(made)
    return made, reader.notes()


#: Where a text stands, the text, and the prompt that it follows.
_Text = tuple[str, Content, Content]


class _Reader:
    """Reads records one by one and remembers what it left out."""

    def __init__(self, names: Names, frame: Frame) -> None:
        self.names = names
        self.frame = frame
        self.ignored: dict[str, None] = {}
        self.empty = 0

    def contrasts(self, records: Iterable[Record]) -> Contrasts:
        first, rest = first_of(records)
        shape = self.names.shape(*first)
        if shape in ("sets", "conditions"):
            return self._columns(first, rest, shape)
        if shape == "labelled":
            return self._labelled(rest)
        if shape == "pairs":
            return self._pairs(rest)
        raise InputError(
            f"{_PLACE.sub('', first[0])} holds texts of one side",
            hint="pass it as --texts with --positive, or as --positive-file with --negative-file",
        )

    def texts(self, records: Iterable[Record]) -> list[_Text]:
        """Texts of one side; empty ones are left out."""
        made: list[_Text] = []
        for where, record in records:
            shape = self.names.shape(where, record)
            if shape not in ("texts", "labelled"):
                raise InputError(f"{where}: two sides, where texts of one are to be")
            key = self.names.key(record, "text") if isinstance(record, dict) else None
            if (record if key is None else record[key]) == "":
                self.empty += 1
            else:
                made.append(self._text(where, record))
        return made

    def conditions(
        self, texts: Sequence[_Text], positive: Sequence[str], negative: Sequence[str]
    ) -> Contrasts:
        """Each condition before each text; conditions are pairs where that can be."""
        for one in set(positive) & set(negative):
            raise InputError(f"{one!r} is a positive and a negative condition")
        n, m = len(positive), len(negative)
        paired = n == m or 1 in (n, m)
        times = (max(1, m // n), max(1, n // m)) if paired else (1, 1)
        sides = [
            tuple(
                self.frame.passage(where, text, prompt, condition)
                for condition in [*conditions] * repeated
                for where, text, prompt in texts
            )
            for conditions, repeated in zip((positive, negative), times, strict=True)
        ]
        asked = tuple(positive), tuple(negative)
        return self._made("conditions", sides, paired=paired, conditions=asked)

    def sets(
        self, positive: Sequence[_Text], negative: Sequence[_Text], *, paired: bool = False
    ) -> Contrasts:
        """Texts of either side, or pairs of the i-th of each."""
        if paired and len(positive) != len(negative):
            raise InputError(
                f"{len(positive):,} positive texts and {len(negative):,} negative are not pairs",
                hint="leave --paired out, or give as many of each",
            )
        sides = [
            tuple(self.frame.passage(where, text, prompt) for where, text, prompt in side)
            for side in (positive, negative)
        ]
        return self._made("pairs" if paired else "unpaired", sides, paired=paired)

    def _pairs(self, records: Iterable[Record]) -> Contrasts:
        sides: tuple[list[Passage], list[Passage]] = ([], [])
        for where, record in self._all(records, "pairs"):
            prompt = self._prompt(where, record)
            for side, name in zip(sides, ("positive", "negative"), strict=True):
                text = self.names.content(where, record, name)
                side.append(self.frame.passage(where, text, prompt))
            self._note_ignored(record, "positive", "negative", "prompt")
        passages = list(chain(*sides))
        choice = all(one.completes and _OPTION.fullmatch(one.text) for one in passages)
        return self._made("choice" if choice else "pairs", sides)

    def _labelled(self, records: Iterable[Record]) -> Contrasts:
        sides: tuple[list[_Text], list[_Text]] = ([], [])
        for where, record in self._all(records, "labelled"):
            text = self._text(where, record)
            sides[0 if self.names.label(where, record) else 1].append(text)
        return self.sets(*sides)

    def _columns(self, first: Record, records: Iterable[Record], shape: Shape) -> Contrasts:
        """One object that holds everything."""
        where, record = first
        if sum(1 for _ in records) > 1:
            raise InputError(f"{where}: lists of texts, and more records after them")
        lists = {}
        for name in ("positive", "negative", "texts"):
            key = self.names.key(record, name)
            values = [] if key is None else record[key]
            if not isinstance(values, list):
                values = [values]
            lists[name] = [
                (f"{where}, {key} {number}", value) for number, value in enumerate(values, 1)
            ]
        self._note_ignored(record, "positive", "negative", "texts")
        if shape == "sets":
            return self.sets(self.texts(lists["positive"]), self.texts(lists["negative"]))
        conditions = [
            [_condition(*one) for one in lists[side]] for side in ("positive", "negative")
        ]
        return self.conditions(self.texts(lists["texts"]), *conditions)

    def _all(self, records: Iterable[Record], shape: Shape) -> Iterator[Record]:
        """Records, each of which has to be of the shape that the first has."""
        for where, record in records:
            found = self.names.shape(where, record)
            if found != shape:
                raise InputError(f"{where}: the fields are not those of the records before")
            yield where, record

    def _text(self, where: str, record: Any) -> _Text:
        if not isinstance(record, dict):
            return where, content(where, record, "the text"), ""
        self._note_ignored(record, "text", "prompt", "label")
        if self.names.key(record, "text") is None:
            return where, self.names.content(where, record, "prompt"), ""
        return where, self.names.content(where, record, "text"), self._prompt(where, record)

    def _prompt(self, where: str, record: dict[str, Any]) -> Content:
        key = self.names.key(record, "prompt")
        value = None if key is None else record[key]
        return "" if value is None or value == "" else content(where, value, repr(key))

    def _note_ignored(self, record: dict[str, Any], *names: str) -> None:
        used = {self.names.key(record, name) for name in names}
        self.ignored.update(dict.fromkeys(name for name in record if name not in used))

    def _made(
        self, kind: ContrastKind, sides: Sequence[Iterable[Passage]], **more: Any
    ) -> Contrasts:
        positive, negative = map(tuple, sides)
        notes = self.notes()
        return Contrasts(kind, positive, negative, frame=self.frame, notes=notes, **more)

    def notes(self) -> tuple[str, ...]:
        """What was left out."""
        notes = []
        if self.ignored:
            notes.append(f"fields that are not read: {', '.join(list(self.ignored)[:8])}")
        if self.empty:
            notes.append(f"empty texts that are left out: {self.empty}")
        return tuple(notes)


def first_of(records: Iterable[Record]) -> tuple[Record, Iterable[Record]]:
    """The first record, and all of them.

    Raises:
        InputError: there is none.
    """
    rest = iter(records)
    for record in rest:
        return record, chain([record], rest)
    raise InputError("there are no contrasts", hint="each line is one JSON object")


def _condition(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: the condition is a {kind_of(value)}, not a text")
    return value
