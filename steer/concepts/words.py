"""Whether what a user typed is a file of contrasts, or words that name a concept."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from steer.base.errors import UsageError
from steer.concepts import pack
from steer.concepts.concept import Concept, concept_of, find

#: How names of files end: a word with such an ending is a file, whether it exists or not.
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,11}")
#: Before the address of a dataset.
_DATASET = "hf:"


@dataclass(frozen=True, slots=True)
class Understood:
    """A concept, and how it was understood, for the user to know."""

    concept: Concept
    note: str


def looks_like_file(text: str) -> bool:
    """Whether a word is a path, a dataset, stdin, or the name of a file that exists."""
    if text == "-" or text.startswith(_DATASET):
        return True
    if any(mark in text for mark in ("\0", "\n")) or len(text) > 500:
        return False
    path = Path(text)
    if not any(map(str.isspace, text)) and ("/" in text or _SUFFIX.fullmatch(path.suffix)):
        return True
    return path.exists()


def understood(word: str, against: str | None = None, *, name: str | None = None) -> Understood:
    """The concept that words name. A single word that steer's packs define is that concept.

    Raises:
        UsageError: one of two is a file.
        InputError: a word is empty, or both are the same.
    """
    for given in (word, against or ""):
        if against is not None and given and looks_like_file(given):
            raise UsageError(
                f"{given!r} is a file, and two words were expected",
                hint="two files of texts are --positive-file and --negative-file; one file of"
                " contrasts stands alone",
            )
    if against is not None and not against.strip():
        # An empty second word is a slip; leaving it out is the way to say that there is none.
        concept_of(against)
    concept = concept_of(word, against or "", name=name)
    if against is not None:
        return Understood(concept, f"{word!r} against {against!r}, as two words")
    shipped = find((entry.concept for entry in pack.everything()), word)
    if shipped is not None:
        own = Concept(
            name or shipped.name,
            *shipped.poles,
            description=shipped.description,
            synonyms=shipped.synonyms,
            questions=shipped.questions,
            words=shipped.words,
        )
        return Understood(own, f"{word!r} as steer's own concept {shipped.name}: {own}")
    return Understood(concept, f"{word!r} as a word, against the model as it is")
