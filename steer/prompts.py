"""Prompts from a file: plain text, one a line, or JSONL."""

from __future__ import annotations

from steer.errors import InputError
from steer.records import decoded, records, text_field


def read(data: bytes, source: str) -> list[str]:
    """The prompts of a file named `source`: a line each, or records `{"prompt": "..."}`.

    Raises:
        InputError: it holds none, or records that are no prompts; with the line.
    """
    text = decoded(data, source)
    if text.lstrip()[:1] in ("{", "["):
        return [
            record if isinstance(record, str) else text_field(where, record, "prompt")
            for where, record in records(data, source)
        ]
    prompts = [line.rstrip("\r") for line in text.split("\n") if line.strip()]
    if not prompts:
        raise InputError(f"{source} holds no prompts", hint="write one a line")
    return prompts


def read_one(data: bytes) -> str:
    """All of stdin as one prompt, without the end of its last line.

    Raises:
        InputError: it is empty or not UTF-8.
    """
    text = decoded(data, "stdin")
    if not text.strip():
        raise InputError("stdin is empty", hint='write steer apply "One day" or pipe a prompt in')
    return text.rstrip("\r\n")
