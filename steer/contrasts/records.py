"""Records from JSONL, JSON, CSV or lines of text, with the place of each for messages."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import PurePath
from typing import Any

from steer.base.errors import InputError

#: A record and where it stands, such as `pairs.jsonl:3`.
Record = tuple[str, Any]

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
#: How a text file begins that is JSON under another name.
_JSON = re.compile(r'\s*(\{\s*"|\[\s*[\[{"])')
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def records(data: bytes, source: str, columns: Collection[str] = ()) -> Iterator[Record]:
    """The records of a file named `source`.

    JSON lists and objects, and one JSON value a line, are known by how they begin; tables by
    `.csv` and `.tsv`, and lines of text by `.txt`. What has none of these (stdin) is a table if its
    first line names one of `columns`.

    Raises:
        InputError: empty, not UTF-8, not JSON, or a broken table; with the line.
    """
    text = decoded(data, source)
    if not text.strip():
        raise InputError(f"{source} is empty", hint="each line is one JSON object")
    suffix = PurePath(source).suffix.lower()
    if suffix == ".txt" and not _JSON.match(text):
        yield from _lines(text, source)
    elif suffix in _DELIMITERS:
        yield from _table(text, source, _DELIMITERS[suffix])
    elif text.lstrip().startswith("["):
        yield from _json_list(text, source)
    elif suffix or text.lstrip().startswith(("{", '"')):
        yield from _json_values(text, source)
    else:
        header = text.lstrip().partition("\n")[0].strip("\r").replace('"', "")
        found = [mark for mark in ",\t" if set(header.split(mark)) & set(columns)]
        yield from _table(text, source, found[0]) if found else _lines(text, source)


def text_field(where: str, record: Any, name: str) -> str:
    """The text in field `name` of a record.

    Raises:
        InputError: the record is no object, or has no such field, or it is no text.
    """
    if not isinstance(record, dict):
        raise InputError(
            f"{where}: a {kind_of(record)}, not an object",
            hint=f'write {{"{name}": "..."}}',
        )
    if name not in record:
        raise InputError(
            f"{where}: there is no field {name!r}; it has {names_of(record)}",
            hint=f'write {{"{name}": "..."}}',
        )
    return text_value(where, record[name], repr(name))


def text_value(where: str, value: Any, subject: str) -> str:
    """`value` as a text.

    Raises:
        InputError: it is none; the message calls it `subject`.
    """
    if not isinstance(value, str):
        raise InputError(f"{where}: {subject} is a {kind_of(value)}, not a text")
    if _HALF_CHARACTER.search(value):
        raise InputError(f"{where}: {subject} has half a character (a lone surrogate)")
    return value


def decoded(data: bytes, source: str) -> str:
    """The text of a file named `source`, without a byte order mark.

    Raises:
        InputError: not UTF-8; with the line.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{source}:{line}: not UTF-8 (byte {error.start})", hint="save the file as UTF-8"
        ) from None


def kind_of(value: Any) -> str:
    """What a JSON value is, for messages."""
    names = {dict: "object", list: "list", str: "text", bool: "truth value", type(None): "null"}
    return names.get(type(value), "number")


def names_of(record: dict[str, Any]) -> str:
    """The fields of a record, for messages."""
    return ", ".join(sorted(record)[:8]) or "none"


def _json_list(text: str, source: str) -> Iterator[Record]:
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        place = f"{source}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else source
        raise InputError(f"{place}: not JSON: {_reason(error)}") from None
    for number, record in enumerate(items, 1):
        yield f"{source}, item {number}", record


def _json_values(text: str, source: str) -> Iterator[Record]:
    """One object over many lines, or a value a line."""
    if text.lstrip().startswith("{") and "\n" in text.strip():
        try:
            yield source, json.loads(text)
        except (ValueError, RecursionError):
            pass
        else:
            return
    yield from _json_lines(text.split("\n"), source)


def _json_lines(lines: Iterable[str], source: str) -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{source}:{number}"
        try:
            yield where, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{where}: not JSON: {_reason(error)}", hint="each line is one JSON object"
            ) from None


def _lines(text: str, source: str) -> Iterator[Record]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{source}:{number}", line.rstrip("\r")


def _table(text: str, source: str, delimiter: str) -> Iterator[Record]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for row in reader:
            where = f"{source}:{reader.line_num}"
            if None in row or None in row.values():
                n = len(reader.fieldnames or ())
                raise InputError(f"{where}: the row has not {n} cells, as the first line has")
            yield where, row
    except csv.Error as error:
        raise InputError(f"{source}:{reader.line_num}: not a table: {error}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
