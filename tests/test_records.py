"""One reader of records: the same rows in any kind of file are the same records."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steer.base.errors import InputError
from steer.base.text import unescaped
from steer.contrasts import records as reading
from steer.contrasts.records import records

SAID = [{"role": "user", "content": "a"}]
Rows = list[dict[str, str]]


def rows_of_data(data: bytes, name: str, columns: tuple[str, ...] = ("text", "label")) -> list[Any]:
    return [record for _, record in records(data, name, columns)]


def table(rows: Rows, delimiter: str) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def parquet(rows: Rows) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


def kinds(rows: Rows) -> dict[str, bytes]:
    """The same rows as files, by the names that they could have."""
    lines = "\n".join(json.dumps(row) for row in rows).encode()
    return {
        "a.jsonl": lines,
        "stdin": lines,
        "a.ndjson": lines.replace(b"\n", b"\r\n"),
        "a.json": json.dumps(rows, indent=1).encode(),
        "a.txt": json.dumps(rows).encode(),
        "a.csv": table(rows, ","),
        "b.csv": table(rows, ";"),
        "table": table(rows, ";"),
        "a.tsv": table(rows, "\t"),
        "a.parquet": parquet(rows),
        "download": parquet(rows),
    }


text = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=8
)
rows_of_any_text = st.lists(
    st.fixed_dictionaries({"text": text, "label": text}), min_size=1, max_size=4
)


@given(rows_of_any_text)
def test_the_same_rows_in_any_kind_of_file_are_the_same_records(rows: Rows) -> None:
    for name, data in kinds(rows).items():
        assert rows_of_data(data, name) == rows, name
        assert rows_of_data(gzip.compress(data, mtime=0), f"{name}.gz") == rows, name
        assert rows_of_data(gzip.compress(data, mtime=0), "download") == rows or "." in name
    for name in ("a.jsonl", "b.csv"):
        decoded = kinds(rows)[name].decode()
        for encoding, mark in (
            ("utf-8", codecs.BOM_UTF8),
            ("utf-16-le", codecs.BOM_UTF16_LE),
            ("utf-16-be", codecs.BOM_UTF16_BE),
            ("utf-32-le", codecs.BOM_UTF32_LE),
        ):
            assert rows_of_data(mark + decoded.encode(encoding), name) == rows, encoding


@pytest.mark.parametrize(
    ("data", "name", "expected"),
    [
        # What a line of text could be taken for.
        (b"[INST] Hi. [/INST]\n{no json}\n", "a.prompts", ["[INST] Hi. [/INST]", "{no json}"]),
        (b'"Hello," she said.\n', "stdin", ['"Hello," she said.']),
        (b'"Hello," she said.\n', "a.txt", ['"Hello," she said.']),
        (b'"One\\nline"\n"Two"\n', "a.jsonl", ["One\nline", "Two"]),
        (b'"One\\nline"\n"Two"\n', "stdin", ["One\nline", "Two"]),
        (b"text; and more\nb\n", "a.txt", ["text; and more", "b"]),
        # Tables.
        (b"text\na;b\n", "a.csv", [{"text": "a;b"}]),
        (b"goal;target\na, b;c\n", "a.csv", [{"goal": "a, b", "target": "c"}]),
        (b"theirs,other\na;x,b\n", "a.csv", [{"theirs": "a;x", "other": "b"}]),
        (b",text\n0,a\n", "a.csv", [{"": "0", "text": "a"}]),
        (b'text\n"' + b"x" * 200_000 + b'"\n', "a.csv", [{"text": "x" * 200_000}]),
        # JSON.
        (b'{"a": 1}', "a.jsonl", [{"a": 1}]),
        (b'{\n"a": 1\n}', "a.json", [{"a": 1}]),
        (json.dumps(SAID).encode() + b"\n", "a.jsonl", [SAID]),
        ((json.dumps(SAID).encode() + b"\n") * 2, "a.jsonl", [SAID] * 2),
    ],
)  # fmt: skip
def test_shapes(data: bytes, name: str, expected: list[Any]) -> None:
    assert rows_of_data(data, name) == expected


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        (b'{"a": 1}\n{"b": 1, "b": 2}\n', "f.jsonl", "f.jsonl:2: the key 'b' occurs twice"),
        (b'[{"a": 1},\n{"x": {"b": 1,\n"b": 2}}]', "f.json", "f.json:3: the key 'b' occurs twice"),
        (b'{"a":\n{"b": "a", "c": "b"},\n"a": 2}', "f.json", "f.json:3: the key 'a' occurs twice"),
        (b"text,label,text\na,1,b\n", "f.csv", "f.csv:1: the column 'text' occurs twice"),
        (b'text,label\na,"b\nc,d\n', "f.csv", "not a table: unexpected end of data"),
        (b"\xff\xfea", "f.csv", "f.csv:1: not UTF-16"),
        (b"a\n\xe9", "f.txt", "f.txt:2: not UTF-8"),
        (b"PAR1 and then something else", "f.parquet", "damaged Parquet"),
        (gzip.compress(b"text", mtime=0)[:-9], "f.gz", "damaged gzip"),
        (gzip.compress(b"text", mtime=0) + b"more", "f.gz", "damaged gzip"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(data: bytes, name: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        rows_of_data(data, name)
    assert message in str(caught.value)


def test_unpacking_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_UNPACKED", 10_000)
    with pytest.raises(InputError, match="unpacks to more than 10,000 bytes"):
        rows_of_data(gzip.compress(b"x" * 100_000, mtime=0), "f.gz")
    with pytest.raises(InputError, match="unpacks to more than 10,000 bytes"):
        rows_of_data(parquet([{"text": "x" * 1000}] * 100), "f.parquet")


def test_parquet_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    data = parquet([{"text": "a"}])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError) as caught:
        rows_of_data(data, "f.parquet")
    assert "parquet" in str(caught.value.hint)


@given(st.text(max_size=20))
def test_escapes(written: str) -> None:
    typed = written.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")
    assert unescaped(typed) == written
    assert unescaped("\\alpha") == "\\alpha"
