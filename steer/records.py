"""Records from JSONL or a JSON list, with the place of each for messages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from steer.errors import InputError

#: A record and where it stands, such as `pairs.jsonl:3`.
Record = tuple[str, Any]

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


def records(data: bytes, source: str) -> Iterator[Record]:
    """The records of a file named `source`: a JSON list, or one JSON value a line.

    Raises:
        InputError: empty, not UTF-8, or not JSON; with the line.
    """
    text = decoded(data, source)
    if not text.strip():
        raise InputError(f"{source} is empty", hint="each line is one JSON object")
    if text.lstrip().startswith("["):
        yield from _json_list(text, source)
    else:
        yield from _json_lines(text.split("\n"), source)


def text_field(where: str, record: Any, name: str) -> str:
    """The text in field `name` of a record.

    Raises:
        InputError: the record is no object, or has no such field, or it is no text.
    """
    if not isinstance(record, dict):
        raise InputError(
            f"{where}: a {_kind(record)}, not an object",
            hint=f'write {{"{name}": "..."}}',
        )
    if name not in record:
        raise InputError(
            f"{where}: there is no field {name!r}; it has {_names(record)}",
            hint=f'write {{"{name}": "..."}}, or say which field to read with --{name}-field',
        )
    value = record[name]
    if not isinstance(value, str):
        raise InputError(f"{where}: {name!r} is a {_kind(value)}, not a text")
    if _HALF_CHARACTER.search(value):
        raise InputError(f"{where}: {name!r} has half a character (a lone surrogate)")
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


def _json_list(text: str, source: str) -> Iterator[Record]:
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        place = f"{source}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else source
        raise InputError(f"{place}: not JSON: {_reason(error)}") from None
    for number, record in enumerate(items, 1):
        yield f"{source}, item {number}", record


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


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "truth value", type(None): "null"}
    return names.get(type(value), "number")


def _names(record: dict[str, Any]) -> str:
    return ", ".join(sorted(record)[:8]) or "none"
