"""The wording of options in messages: `--allow-idle` for users of the command line,
`allow_idle=True` for users of Python.

Messages and hints in the code use the form of the command line. A value follows its option after
`=`, or after a blank if it is a number, quoted, or a placeholder in capitals (`--layer N`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

#: Options that are True in Python; and, below, options with a value and the names of their
#: arguments in Python.
# fmt: off
FLAGS = frozenset(
    [
        "allow-idle", "allow-other-model", "allow-overlap", "allow-weak", "approximate", "chat",
        "clear", "encoder", "exhaustive", "force", "offline", "private", "quick", "scalar",
        "together", "trust-remote-code",
    ]
)
_SAME = [
    "adapter", "api-key", "baseline", "beams", "budget", "coefficients", "concept", "condition",
    "contrasts", "description", "device", "device-map", "dtype", "evidence", "format", "held-out",
    "keep", "layer", "layers", "license", "max-kl", "max-nats", "max-tokens", "method", "methods",
    "minus", "model", "name", "negative", "out", "pick", "port", "positions", "positive", "prompts",
    "rank", "revision", "row", "samples", "scope", "seed", "site", "steps", "stop", "strength",
    "system", "tags", "temperature", "template", "texts", "tokens", "top-k", "top-p", "unrelated",
    "vectors", "watch", "when",
]
VALUES = {name: name.replace("-", "_") for name in _SAME} | {
    "as": "form",
    "guard": "guards",
    "layer-offset": "offset",
    "map": "mapping",
}
#: Options without an argument in Python; messages keep them as they are.
COMMAND_ONLY = frozenset(
    [
        "allow-origin", "compare", "date", "engine", "engine-option", "formats", "help",
        "jobs", "json", "judge-model", "judge-url", "key", "lens", "lists", "lm-eval",
        "lm-eval-limit", "lora", "negative-file", "negative-label", "new-key", "nproc-per-node",
        "op", "orthogonal-to", "paired", "phrase", "positive-file", "positive-label",
        "public-key", "questions", "ray", "recipe", "save", "served", "split", "template-arg",
        "tp", "workers",
    ]
)
# fmt: on
_OPTION = re.compile(
    r"(?<![\w-])--(?P<name>[a-z][a-z-]*[a-z])"
    r"(?:=(?P<value>[^\s,;:)]+)"
    r"| (?P<spaced>[A-Z][A-Z.]*(?![\w-])|-?\d[\w%]*|'[^']*'|\w+=[\w.{}]+))?"
)
#: A command with its options, as in "steer pull URL --force; or ...".
_COMMAND = re.compile(
    r"(`steer [^`]*`"
    r"|\bsteer (?:apply|check-server|convert|distill|doctor|extract|list|pull|push|serve|sign|show)"
    r"\b[^;`]*)"
)
_n_commands = 0


@contextmanager
def for_commands() -> Iterator[None]:
    """Within the block, messages are for users of the command line."""
    global _n_commands
    _n_commands += 1
    try:
        yield
    finally:
        _n_commands -= 1


def is_for_commands() -> bool:
    """Whether messages are for users of the command line."""
    return _n_commands > 0


def worded(text: str) -> str:
    """A message in the form for the current user."""
    return text if is_for_commands() else in_python(text)


def in_python(text: str) -> str:
    """A message with arguments of Python in place of options; whole commands stay unchanged."""
    parts = _COMMAND.split(text)
    return "".join(
        part if number % 2 else _OPTION.sub(_argument, part) for number, part in enumerate(parts)
    )


def _argument(match: re.Match[str]) -> str:
    name, value = match["name"], match["value"] or match["spaced"]
    if name in FLAGS:
        return f"{name.replace('-', '_')}=True" + (f" {value}" if value else "")
    if name not in VALUES:
        return match[0]
    argument = VALUES[name]
    if value is None:
        return argument
    if name == "model":
        return f"steer.load({json.dumps(value, ensure_ascii=False)})"
    if name == "map":
        ours, _, theirs = value.partition("=")
        return f"{argument}={json.dumps({ours: theirs}, ensure_ascii=False)}"
    plain = re.fullmatch(r"[A-Z][A-Z.]*|\d+(\.\d+)?|'.*'", value)
    return f"{argument}={value if plain else json.dumps(value, ensure_ascii=False)}"
