"""Recognise addresses, and show them without passwords."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

_PASSWORD = re.compile(r"(?<=://)([^/@:\s]*):[^/@\s]*@")


def is_url(text: str) -> bool:
    """Whether a reference is an address, not a name or path."""
    return "://" in text


def public(url: str) -> str:
    """An address without credentials: passwords, and queries, which may be signatures."""
    if not is_url(url) or url.endswith("://"):
        return url
    try:
        parts = urlsplit(url)
        login, at, host = parts.netloc.rpartition("@")
    except ValueError:
        return url.partition("://")[0] + "://..."
    user = login.partition(":")[0]
    return urlunsplit(parts._replace(netloc=f"{user}{at}{host}", query="", fragment=""))


def without_passwords(text: str) -> str:
    """A text in which addresses stand, without their passwords; all else stays as it is."""
    return _PASSWORD.sub(r"\1@", text)
