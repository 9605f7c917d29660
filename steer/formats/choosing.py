"""Choose one of several vectors in a file: the one that the user names, or that of the model."""

from __future__ import annotations

import re
from collections.abc import Iterable

from steer.base.errors import UsageError
from steer.formats.imported import shortened
from steer.formats.source import Options
from steer.vectors.sites import listed

_MOST_SHOWN = 20


def choose(names: Iterable[str], options: Options, subject: str, noun: str) -> str:
    """The only name, the one that --pick gives, or the one of the user's model.

    noun: a word for the names in messages, such as `models`.

    Raises:
        UsageError: there are several and none is chosen, or the chosen one does not exist.
    """
    known = list(names)
    hint = f"choose with --pick: {listed(shortened(name) for name in known[:_MOST_SHOWN])}"
    if options.pick is not None:
        matching = [name for name in known if name == options.pick]
        matching = matching or [name for name in known if plain(name) == plain(options.pick)]
        if len(matching) != 1:
            raise UsageError(f"{subject} has no {shortened(options.pick)!r}", hint=hint)
        return matching[0]
    if len(known) == 1:
        return known[0]
    if options.model is not None:
        model_names = {plain(options.model), plain(options.model.rstrip("/").rpartition("/")[2])}
        matching = [name for name in known if plain(name) in model_names]
        if len(matching) == 1:
            return matching[0]
    raise UsageError(f"{subject} has several {noun}", hint=hint)


def plain(text: str) -> str:
    """A name in lower case and without punctuation, to compare names of models."""
    return re.sub(r"[^a-z0-9]", "", text.lower())
