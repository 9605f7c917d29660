"""Read contrast sets from files, record by record, in every shape that `schema` knows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice, product
from typing import Any

from steer.base.errors import InputError
from steer.contrasts.contrasts import Contrasts, ContrastSource
from steer.contrasts.frame import Frame
from steer.contrasts.passages import Passage, check_alike
from steer.contrasts.records import Record, kind_of
from steer.contrasts.schema import Content, Names, Shape, content
from steer.contrasts.split import without_held_out
from steer.vectors.provenance import ContrastKind

#: The most passages, and characters in them, that conditions and lists of texts may expand to.
MOST_PASSAGES, MOST_CHARACTERS = 1_000_000, 1_000_000_000

#: An answer that picks one of the choices.
_OPTION = re.compile(r"\s*(\(?[A-Za-z0-9]\)?[.:]?|yes|no|true|false)\.?\s*", re.IGNORECASE)
#: Where in its file a record stands.
_PLACE = re.compile(r"(:\d+|, [a-z]+ \d+)$")


def read(source: ContrastSource, records_of: Callable[[str], Iterable[Record]]) -> Contrasts:
    """Read the contrasts that the user named; `records_of` gives the records of a file.

    Raises:
        InputError: naming the file, the line and what is wrong.
        SteerError: a file that cannot be read.
    """
    names, frame = source.names, source.frame
    if source.file is not None:
        records = records_of(source.file)
        if source.held_out:
            records = without_held_out(list(records), source.held_out, names)
        return _Reader(names, frame).contrasts(records)
    if source.texts is not None:
        reader = _Reader(names.of("texts"), frame)
        sides = source.positive, source.negative or ("",)
        return reader.conditions(reader.texts(records_of(source.texts)), *sides)
    assert source.positive_file is not None and source.negative_file is not None
    positive_reader = _Reader(names.of("positive"), frame)
    positive = positive_reader.texts(records_of(source.positive_file))
    negative_reader = _Reader(names.of("negative"), frame)
    negative = negative_reader.texts(records_of(source.negative_file))
    negative_reader.merge(positive_reader)
    return negative_reader.sets(positive, negative, paired=source.paired)


def read_texts(
    records: Iterable[Record], names: Names, frame: Frame
) -> tuple[tuple[Passage, ...], tuple[str, ...]]:
    """Read texts of one side as passages in `frame`; also give notes on what was left out.

    Raises:
        InputError: naming the line and what is wrong.
    """
    reader = _Reader(names, frame)
    passages = tuple(frame.passage(*text) for text in reader.texts(records))
    if not passages:
        raise InputError("there are no texts")
    check_alike(passages)
    return passages, reader.notes()


#: The place of a text in its file, the text, and the prompt that it follows.
_Text = tuple[str, Content, Content]


@dataclass(frozen=True, slots=True, eq=False)
class _ConditionedTexts(Sequence[Passage]):
    """Each text after each condition, `repeated` times. Passages are built on access, since many
    conditions times many texts would take far more memory than both."""

    frame: Frame
    texts: Sequence[_Text]
    conditions: Sequence[str]
    repeated: int = 1

    def __len__(self) -> int:
        return len(self.texts) * len(self.conditions) * self.repeated

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        index = range(len(self))[index]
        where, text, prompt = self.texts[index % len(self.texts)]
        condition = self.conditions[index // len(self.texts) % len(self.conditions)]
        return self.frame.passage(where, text, prompt, condition)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(own == its for own, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as of a list


class _Reader:
    """Reads records one by one and remembers what it left out or multiplied."""

    def __init__(self, names: Names, frame: Frame) -> None:
        self.names = names
        self.frame = frame
        self.ignored: dict[str, None] = {}
        self.empty = 0
        self.other_labels = 0
        self.messages: list[str] = []

    def merge(self, other: _Reader) -> None:
        """Add the notes of the reader of the other side."""
        self.ignored = other.ignored | self.ignored
        self.empty += other.empty
        self.messages = [*dict.fromkeys(other.messages + self.messages)]

    def contrasts(self, records: Iterable[Record]) -> Contrasts:
        """A contrast set; the first record decides its kind."""
        first, rest = first_of(records)
        shape = self.names.shape(*first)
        if shape in ("sets", "conditions"):
            objects = list(islice(rest, 2))
            if len(objects) == 1:
                return self._whole_object(first, shape)
            if shape == "conditions":
                raise InputError(f"{first[0]}: conditions and texts, and more records after them")
            if self.names.lists == "sets":
                raise InputError(
                    f"{first[0]}: two sets of texts, and more records after them",
                    hint="pass --lists all, or --lists first, for pairs from each record",
                )
            return self._pairs(chain(objects, rest))
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
        texts: list[_Text] = []
        for where, record in records:
            shape = self.names.shape(where, record)
            if shape not in ("texts", "labelled"):
                raise InputError(
                    f"{where}: this record has two sides; texts of one side belong here"
                )
            key = self.names.key(record, "text") if isinstance(record, dict) else None
            if (record if key is None else record[key]) == "":
                self.empty += 1
            else:
                texts.append(self._text(where, record))
        return texts

    def conditions(
        self, texts: Sequence[_Text], positive: Sequence[str], negative: Sequence[str]
    ) -> Contrasts:
        """Each condition before each text, paired where the numbers of conditions allow it."""
        for condition in set(positive) & set(negative):
            raise InputError(f"{condition!r} is both a positive and a negative condition")
        n, m = len(positive), len(negative)
        paired = n == m or 1 in (n, m)
        times = (max(1, m // n), max(1, n // m)) if paired else (1, 1)
        sides = [
            _ConditionedTexts(self.frame, texts, conditions, repeated)
            for conditions, repeated in zip((positive, negative), times, strict=True)
        ]
        self._check_crossed(sides)
        both_sides = tuple(positive), tuple(negative)
        return self._contrasts(
            "conditions", sides, paired=paired, conditions=both_sides, records=len(texts)
        )

    def _check_crossed(self, sides: Sequence[_ConditionedTexts]) -> None:
        """Check each text and each condition once, instead of every combination."""
        texts = sides[0].texts
        if not texts:
            return
        check_size(sum(map(len, sides)), sum(map(_characters, sides)), "conditions before texts")
        firsts = []
        for side in sides:
            condition = max(side.conditions, key=bool)  # one that is not empty, if there is one
            check_alike(self.frame.passage(*text, condition) for text in texts)
            firsts.append({self.frame.passage(*texts[0], each) for each in side.conditions})
        if firsts[0] & firsts[1]:
            raise InputError("positive and negative are the same texts")

    def sets(
        self, positive: Sequence[_Text], negative: Sequence[_Text], *, paired: bool = False
    ) -> Contrasts:
        """Texts of either side; with `paired`, the i-th texts of both sides are a pair."""
        if paired and len(positive) != len(negative):
            raise InputError(
                f"{len(positive):,} positive texts and {len(negative):,} negative are not pairs",
                hint="leave --paired out, or give as many of each",
            )
        sides = [
            tuple(self.frame.passage(where, text, prompt) for where, text, prompt in side)
            for side in (positive, negative)
        ]
        return self._contrasts("pairs" if paired else "unpaired", sides, paired=paired)

    def _pairs(self, records: Iterable[Record]) -> Contrasts:
        """Pairs; a record with lists gives every positive text with every negative text."""
        sides: tuple[list[Passage], list[Passage]] = ([], [])
        with_lists = from_lists = characters = 0
        counts: list[int] = []
        for where, record in self._all(records, "pairs"):
            prompt = self._prompt(where, record)
            positive, negative = (
                [
                    self.frame.passage(where, text, prompt)
                    for text in self.names.contents(where, record, name)
                ]
                for name in ("positive", "negative")
            )
            n = len(positive) * len(negative)
            counts += [n] if n else []
            if n > 1:
                with_lists, from_lists = with_lists + 1, from_lists + n
                characters += sum(len(passage.full_text) for passage in positive) * len(negative)
                characters += sum(len(passage.full_text) for passage in negative) * len(positive)
                check_size(2 * from_lists, characters, f"{where}: lists of texts in pairs")
            for pair in product(positive, negative):
                for side, passage in zip(sides, pair, strict=True):
                    side.append(passage)
            self._note_ignored(record, "positive", "negative", "prompt")
        if with_lists:
            records_hold = "record holds" if with_lists == 1 else "records hold"
            self.messages.append(
                f"{with_lists:,} {records_hold} lists of texts: {from_lists:,} pairs, of each"
                " positive text with each negative one (--lists first: one pair a record)"
            )
        elif self.names.split is None and _looks_like_lists(sides):
            self.messages.append(
                "many texts hold ';': if they are lists of answers, pass --split ';'"
            )
        choice = all(text.completes and _OPTION.fullmatch(text.text) for text in chain(*sides))
        each = tuple(counts) if with_lists else None
        return self._contrasts("choice" if choice else "pairs", sides, records=each)

    def _labelled(self, records: Iterable[Record]) -> Contrasts:
        sides: tuple[list[_Text], list[_Text]] = ([], [])
        for where, record in self._all(records, "labelled"):
            label = self.names.label(where, record)
            text = self._text(where, record)
            if label is None:
                self.other_labels += 1
            else:
                sides[0 if label else 1].append(text)
        return self.sets(*sides)

    def _whole_object(self, first: Record, shape: Shape) -> Contrasts:
        """Two sets of texts, or conditions and texts, from a file that is one object."""
        where, record = first
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
            self.messages.append(
                "an object with two lists is read as two sets of texts, not as pairs"
                " (--lists all: pairs of each text with each)"
            )
            return self.sets(*(self._listed(lists[name]) for name in ("positive", "negative")))
        conditions = [
            [_condition(where, value) for where, value in lists[side]]
            for side in ("positive", "negative")
        ]
        return self.conditions(self._listed(lists["texts"]), *conditions)

    def _listed(self, texts: Iterable[Record]) -> list[_Text]:
        """Texts of a list inside an object; the object's mapping does not apply to them."""
        reader = _Reader(Names(), self.frame)
        listed = reader.texts(texts)
        self.empty += reader.empty
        return listed

    def _all(self, records: Iterable[Record], shape: Shape) -> Iterable[Record]:
        """The records; raises unless each has the shape of the first one."""
        for where, record in records:
            own = self.names.shape(where, record)
            if own != shape and not (shape == "pairs" and own == "sets"):
                raise InputError(f"{where}: its fields differ from those of the records before it")
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

    def _contrasts(
        self, kind: ContrastKind, sides: Sequence[Sequence[Passage]], **more: Any
    ) -> Contrasts:
        positive, negative = (
            side if isinstance(side, _ConditionedTexts) else tuple(side) for side in sides
        )
        return Contrasts(kind, positive, negative, frame=self.frame, notes=self.notes(), **more)

    def notes(self) -> tuple[str, ...]:
        """Notes for the user: records and fields that were left out, and how lists were read."""
        notes = list(self.messages)
        if self.ignored:
            notes.append(f"fields that are not read: {', '.join(list(self.ignored)[:8])}")
        if self.empty:
            notes.append(f"empty texts that are left out: {self.empty}")
        if self.other_labels:
            notes.append(f"rows with neither label that are left out: {self.other_labels}")
        return tuple(notes)


def first_of(records: Iterable[Record]) -> tuple[Record, Iterable[Record]]:
    """The first record, and an iterator over all of them.

    Raises:
        InputError: there are no records.
    """
    rest = iter(records)
    for record in rest:
        return record, chain([record], rest)
    raise InputError("there are no contrasts", hint="each line is one JSON object")


def check_size(n_passages: int, n_characters: int, subject: str) -> None:
    """Refuse a small file that would expand to too much, before it does.

    Raises:
        InputError: there are more passages or characters than `MOST_PASSAGES`, `MOST_CHARACTERS`.
    """
    for n, most, unit in (
        (n_passages, MOST_PASSAGES, "texts"),
        (n_characters, MOST_CHARACTERS, "characters"),
    ):
        if n > most:
            raise InputError(
                f"{subject} expand to {n:,} {unit}, more than {most:,}", hint="pass fewer of them"
            )


def _characters(crossed: _ConditionedTexts) -> int:
    """An estimate of the characters in the passages, without the frame round each."""
    texts = sum(_length(text) + _length(prompt) for _, text, prompt in crossed.texts)
    conditions = sum(map(len, crossed.conditions))
    once = texts * len(crossed.conditions) + conditions * len(crossed.texts)
    return once * crossed.repeated


def _length(text: Content) -> int:
    return len(text) if isinstance(text, str) else sum(len(turn.content) for turn in text)


def _looks_like_lists(sides: tuple[list[Passage], list[Passage]]) -> bool:
    """Whether half the texts of both sides hold a semicolon, as lists of answers in tables do."""
    return all(2 * sum(";" in passage.text for passage in side) >= len(side) for side in sides)


def _condition(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: the condition is a {kind_of(value)}, not a text")
    return value
