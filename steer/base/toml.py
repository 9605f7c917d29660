"""Read TOML from untrusted files."""

from __future__ import annotations

import re
import sys
from typing import Any

from steer.base.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: The most names in one key (`generation.seed` has two), in which tomllib's time is exponential.
_MOST_NAMES = 8
#: Strings and comments in TOML, which can hold any character; unterminated ones reach to the end.
_QUOTED = re.compile(
    r'"""(?:\\.|[^\\])*?(?:"""|\\?\Z)'
    r"|'''.*?(?:'''|\Z)"
    r'|"(?:\\.|[^"\\\n])*"?'
    r"|'[^'\n]*'?"
    r"|#[^\n]*",
    re.DOTALL,
)
_AROUND_KEYS = re.compile(r"[=,{}\[\]\n]")


def load_toml(text: str, subject: str, *, hint: str | None = None) -> dict[str, Any]:
    """The tables of a TOML text. subject: the name of the file in errors.

    Raises:
        InputError: it is not TOML, or a key has too many names; tomllib's message has the line.
    """
    for part in _AROUND_KEYS.split(_QUOTED.sub("s", text)):
        if part.count(".") >= _MOST_NAMES:
            raise InputError(f"{subject}: a key has more than {_MOST_NAMES} names")
    try:
        return dict(tomllib.loads(text))
    except (ValueError, RecursionError) as error:  # a number may be too long for Python
        raise InputError(f"{subject}: not TOML: {error}", hint=hint) from None
