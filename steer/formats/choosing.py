"""One of several vectors in a file or folder: the one that the user names, or that of the model."""

from __future__ import annotations

import re
from collections.abc import Iterable

from steer.base.errors import UsageError
from steer.formats.imported import shortened
from steer.formats.source import Options
from steer.vectors.sites import listed

_MOST_SHOWN = 20


def choose(names: Iterable[str], options: Options, subject: str, what: str) -> str:
    """The only name, the one that --pick names, or the one that means the user's model.

    what: what the names are, for messages: `models`.

    Raises:
        UsageError: several, of which none is chosen, or a name that is not there.
    """
    known = list(names)
    hint = f"choose with --pick: {listed(shortened(name) for name in known[:_MOST_SHOWN])}"
    if options.pick is not None:
        found = [name for name in known if name == options.pick]
        found = found or [name for name in known if plain(name) == plain(options.pick)]
        if len(found) != 1:
            raise UsageError(f"{subject} has no {shortened(options.pick)!r}", hint=hint)
        return found[0]
    if len(known) == 1:
        return known[0]
    if options.model is not None:
        wanted = {plain(options.model), plain(options.model.rstrip("/").rpartition("/")[2])}
        found = [name for name in known if plain(name) in wanted]
        if len(found) == 1:
            return found[0]
    raise UsageError(f"{subject} has several {what}", hint=hint)


def plain(text: str) -> str:
    """A name without case and punctuation, as files write the names of models."""
    return re.sub(r"[^a-z0-9]", "", text.lower())
