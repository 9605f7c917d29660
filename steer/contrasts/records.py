"""Records from a file of any supported kind, each with its place in the file for messages.

One reader serves contrasts, prompts and texts: the same rows mean the same in JSONL, JSON, a table
(with commas, semicolons or tabs), Parquet or lines of text.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import PurePath
from typing import Any, BinaryIO

from steer.base.errors import InputError

#: The place of a record, such as `pairs.jsonl:3`, and the record.
Record = tuple[str, Any]

#: The most bytes of a file of texts.
MOST_BYTES = 2_000_000_000

#: The most bytes that a compressed file may unpack to; a small file can unpack to terabytes.
MOST_UNPACKED = 500_000_000

# The library's own limit of 131,072 characters is lower than that of other kinds of files.
csv.field_size_limit(MOST_UNPACKED)

_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
#: The beginning of a text that is JSON, whatever the file's name.
_LOOKS_LIKE_JSON = re.compile(r'\s*(\{\s*["}]|\[\s*[\[{"\]])')
_JSON_SUFFIXES = {".json", ".jsonl", ".ndjson"}
_JSON_TOKEN = re.compile(r'(?P<key>"(?:[^"\\]|\\.)*")\s*:|"(?:[^"\\]|\\.)*"|[{}\[\]]')
#: The delimiters of tables, and the usual one for each suffix.
_DELIMITERS = (",", "\t", ";")
_TABLE_SUFFIXES = {".csv": ",", ".tsv": "\t", ".tab": "\t"}


def records(data: bytes, source: str, columns: Collection[str] = ()) -> Iterator[Record]:
    """Yield the records of a file named `source`, decompressing gzip.

    Parquet and gzip are recognised by their first bytes. `.json`, `.jsonl` and anything that looks
    like JSON is a list, one object, or a value a line. `.csv` and `.tsv` are tables with a header;
    `.txt` is a text a line. Anything else (stdin) is a table if its first line names one of
    `columns`, the names that mean something to the caller, and lines of text otherwise.

    Raises:
        InputError: the file is empty, cannot be decompressed or decoded, is not valid JSON or a
            valid table, or has a key or column twice; with the line.
    """
    data = _unpacked(data, source)
    if data.startswith(_PARQUET):
        yield from _parquet(data, source)
        return
    text = decoded(data, source)
    if not text.strip():
        raise InputError(f"{source} is empty", hint="each line is one JSON object")
    suffixes = [suffix.lower() for suffix in PurePath(source).suffixes]
    suffix = next((suffix for suffix in reversed(suffixes) if suffix != ".gz"), "")
    if suffix in _TABLE_SUFFIXES:
        yield from _table(text, source, _delimiter(text, columns, _TABLE_SUFFIXES[suffix]))
    elif (
        suffix in _JSON_SUFFIXES
        or _LOOKS_LIKE_JSON.match(text)
        or (suffix != ".txt" and _is_json_string(text))
    ):
        yield from _json(text, source)
    elif suffix != ".txt" and (delimiter := _header_delimiter(text, columns)):
        yield from _table(text, source, delimiter)
    else:
        yield from _lines(text, source)


def arriving_records(
    file: BinaryIO, source: str, columns: Collection[str] = ()
) -> Iterator[Record]:
    """The records of an open file such as stdin, each as soon as its line arrives.

    If its first line shows that a record is not a line (a table, one JSON value over many lines,
    Parquet, gzip), the records come when the file has ended, as those of `records`.

    Raises:
        InputError: as `records`; or a line has more than `MOST_UNPACKED` bytes.
    """
    data, number = b"", 0
    while not data.strip():
        line = file.readline(MOST_UNPACKED + 1)
        data, number = data + line, number + 1
        if not line:
            break
    if not _is_line_of_many(data, columns):
        yield from records(data + file.read(MOST_BYTES), source, columns)
        return
    first = decoded(data, source)
    is_json = bool(_LOOKS_LIKE_JSON.match(first)) or _is_json_string(first)
    line = data.lstrip(b"\r\n")
    while line:
        if len(line) > MOST_UNPACKED:
            raise InputError(f"{source}:{number}: the line has more than {MOST_UNPACKED:,} bytes")
        text = decoded(line, f"line {number} of {source}").rstrip("\r\n")
        if text.strip():
            try:
                yield f"{source}:{number}", _loads(text) if is_json else text
            except _NotJson as error:
                raise error.at(source, number, hint="each line is one JSON object") from None
        line, number = file.readline(MOST_UNPACKED + 1), number + 1


def _is_line_of_many(data: bytes, columns: Collection[str]) -> bool:
    """Whether the first line of a file shows that each of its lines is a record."""
    if data.startswith((_GZIP, _PARQUET, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return False
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return False
    if text.strip() in ("{", "["):
        return False
    if _LOOKS_LIKE_JSON.match(text):
        # A list in one line is all records, unless it is a conversation.
        return _is_json_line(text) and (
            not text.lstrip().startswith("[") or is_conversation(json.loads(text))
        )
    return bool(text.strip()) and _header_delimiter(text, columns) is None


def text_value(where: str, value: Any, subject: str) -> str:
    """Return `value` if it is a text; messages call it `subject`.

    Raises:
        InputError: it is not a text, or has half a surrogate pair.
    """
    if not isinstance(value, str):
        raise InputError(f"{where}: {subject} is a {kind_of(value)}, not a text")
    if _HALF_CHARACTER.search(value):
        raise InputError(f"{where}: {subject} has half a character (a lone surrogate)")
    return value


def decoded(data: bytes, source: str) -> str:
    """The text of a file named `source`: UTF-8, or UTF-16 or UTF-32 with a byte order mark.

    Raises:
        InputError: the bytes are not in that encoding; with the line.
    """
    encoding = "utf-8-sig"
    # UTF-32's mark begins with that of UTF-16.
    for marks, name in (
        ((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), "utf-32"),
        ((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "utf-16"),
    ):
        if data.startswith(marks):
            encoding = name
            break
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        name = "UTF-8" if encoding == "utf-8-sig" else encoding.upper()
        raise InputError(
            f"{source}:{line}: not {name} (byte {error.start})", hint="save the file as UTF-8"
        ) from None


def kind_of(value: Any) -> str:
    """The name of a JSON value's type for messages."""
    names = {dict: "object", list: "list", str: "text", bool: "truth value", type(None): "null"}
    return names.get(type(value), "number")


def names_of(record: dict[str, Any]) -> str:
    """The fields of a record, for messages."""
    return ", ".join(sorted(map(str, record))[:8]) or "none"


def _unpacked(data: bytes, source: str) -> bytes:
    if not data.startswith(_GZIP):
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            unpacked = file.read(MOST_UNPACKED + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{source}: damaged gzip: {error}") from None
    if len(unpacked) > MOST_UNPACKED:
        raise InputError(
            f"{source} unpacks to more than {MOST_UNPACKED:,} bytes", hint="pass a part of it"
        )
    return unpacked


def _parquet(data: bytes, source: str) -> Iterator[Record]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise InputError(
            f"{source}: Parquet needs the `pyarrow` library",
            hint="pip install 'steer-activations[parquet]'",
        ) from None
    number, size = 0, 0
    try:
        file = parquet.ParquetFile(io.BytesIO(data))
        names = file.schema_arrow.names
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"{source}: the column {name!r} occurs twice")
        for batch in file.iter_batches(batch_size=256):
            size += batch.nbytes
            if size > MOST_UNPACKED:
                raise InputError(
                    f"{source} unpacks to more than {MOST_UNPACKED:,} bytes",
                    hint="pass a part of it",
                )
            for row in batch.to_pylist():
                number += 1
                yield f"{source}, row {number}", row
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise InputError(f"{source}: damaged Parquet: {reason}") from None
    if not number:
        raise InputError(f"{source} is empty", hint="it has no rows")


def _json(text: str, source: str) -> Iterator[Record]:
    """A list of records, one object over many lines, or a value a line."""
    start = text.lstrip()[:1]
    if start == "[":
        try:
            items = _loads(text)
        except _NotJson as error:
            # JSONL whose values are lists begins with a bracket too.
            if _is_json_line(text):
                yield from _json_lines(text, source)
                return
            raise error.at(source) from None
        if isinstance(items, list) and not is_conversation(items):
            for number, record in enumerate(items, 1):
                yield f"{source}, item {number}", record
            return
        yield source, items
        return
    if start == "{" and "\n" in text.strip() and not _is_json_line(text):
        try:
            yield source, _loads(text)
        except _NotJson as error:
            raise error.at(source) from None
        return
    yield from _json_lines(text, source)


def _json_lines(text: str, source: str) -> Iterator[Record]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield f"{source}:{number}", _loads(line)
        except _NotJson as error:
            raise error.at(source, number, hint="each line is one JSON object") from None


class _NotJson(Exception):  # noqa: N818 - it becomes an InputError, which knows the file
    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.line = line

    def at(self, source: str, line: int | None = None, hint: str | None = None) -> InputError:
        line = line or self.line
        place = source if line is None else f"{source}:{line}"
        return InputError(f"{place}: {self}", hint=hint)


def _loads(text: str) -> Any:
    """JSON, in which no object has a key twice.

    Raises:
        _NotJson: saying why.
    """
    try:
        return json.loads(text, object_pairs_hook=_each_key_once)
    except json.JSONDecodeError as error:
        raise _NotJson(f"not JSON: {error.msg}", error.lineno) from None
    except RecursionError:
        raise _NotJson("not JSON: nested too deeply") from None
    except _DuplicateKeyError as error:
        raise _NotJson(str(error), _line_of_duplicate(text)) from None
    except ValueError as error:
        raise _NotJson(f"not JSON: {error}") from None


class _DuplicateKeyError(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(f"the key {key[:40]!r} occurs twice in one object")


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _DuplicateKeyError(next(key for key in keys if keys.count(key) > 1))
    return unique


def _line_of_duplicate(text: str) -> int | None:
    """The line of the first key that occurs twice in its object, which the parser does not give."""
    open_objects: list[set[str]] = []
    for token in _JSON_TOKEN.finditer(text):
        if token[0] in "{[":
            open_objects.append(set())
        elif token[0] in "}]":
            open_objects.pop()
        elif token["key"] is not None:
            key = json.loads(token["key"])
            if key in open_objects[-1]:
                return text.count("\n", 0, token.start()) + 1
            open_objects[-1].add(key)
    return None


def is_conversation(items: Any) -> bool:
    """Whether a value is a list of chat messages: one conversation."""
    return (
        isinstance(items, list)
        and bool(items)
        and all(isinstance(item, dict) and {"role", "content"} <= set(item) for item in items)
    )


def _first_line(text: str) -> str:
    return text.lstrip().partition("\n")[0].strip()


def _is_json_line(text: str) -> bool:
    """Whether the first line is a JSON value by itself."""
    try:
        _loads(_first_line(text))
    except _NotJson as error:
        return not str(error).startswith("not JSON")
    return True


def _is_json_string(text: str) -> bool:
    """Whether the first line is a JSON string, rather than a text that begins with a quote."""
    return _first_line(text).startswith('"') and _is_json_line(text)


def _lines(text: str, source: str) -> Iterator[Record]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{source}:{number}", line.rstrip("\r")


def _cells(text: str, delimiter: str) -> list[str]:
    """The first row of a table."""
    try:
        return next(csv.reader(io.StringIO(text.lstrip(), newline=""), delimiter=delimiter), [])
    except csv.Error:
        return []


def _header_delimiter(text: str, columns: Collection[str]) -> str | None:
    """The delimiter with which the first line names one of `columns`; None if it does not."""
    for delimiter in _DELIMITERS:
        cells = _cells(text, delimiter)
        if set(cells) & set(columns):
            return delimiter
    return None


def _delimiter(text: str, columns: Collection[str], usual: str) -> str:
    """The delimiter of a table: the one with which the header has most of `columns`; else the usual
    one of the suffix if it divides the header, else the one that does."""

    def rank(delimiter: str) -> tuple[int, bool, int]:
        cells = _cells(text, delimiter)
        known = len(set(cells) & set(columns))
        return known, delimiter == usual and len(cells) > 1, len(cells)

    return max((usual, *(each for each in _DELIMITERS if each != usual)), key=rank)


def _table(text: str, source: str, delimiter: str) -> Iterator[Record]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [name for name in reader.fieldnames or () if name]
        for name in names:
            if names.count(name) > 1:
                raise InputError(
                    f"{source}:{reader.line_num}: the column {name[:40]!r} occurs twice"
                )
        for row in reader:
            where = f"{source}:{reader.line_num}"
            if None in row or None in row.values():
                n = len(reader.fieldnames or ())
                raise InputError(f"{where}: the row does not have {n} cells, as the first line has")
            yield where, row
    except csv.Error as error:
        raise InputError(f"{source}:{reader.line_num}: not a table: {error}") from None


def records_in(items: Iterable[Any], source: str) -> Iterator[Record]:
    """Records that are already in memory, such as a list or the rows of a dataset."""
    for number, item in enumerate(items, 1):
        yield f"{source}, item {number}", item
