"""Decide whether an argument is a file of contrasts or the words of a concept."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from steer.base.errors import UsageError
from steer.concepts import pack
from steer.concepts.concept import Concept, concept_of, find, slug

#: File suffixes; an argument with one is a file, whether it exists or not.
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,11}")
#: The prefix of a dataset's address.
_DATASET = "hf:"


@dataclass(frozen=True, slots=True)
class TokenContrast:
    """The tokens that a vector should make likelier, and those that it should make less likely."""

    raises: tuple[str, ...]
    lowers: tuple[str, ...]

    @property
    def name(self) -> str:
        """The default name of the vector."""
        return slug(" ".join(self.raises or ("not", *self.lowers)))


@dataclass(frozen=True, slots=True)
class Interpretation:
    """A concept, and a note for the user about its interpretation."""

    concept: Concept
    note: str


def looks_like_file(text: str) -> bool:
    """Whether an argument is a path, a dataset, stdin, or the name of an existing file."""
    if text == "-" or text.startswith(_DATASET):
        return True
    if any(mark in text for mark in ("\0", "\n")) or len(text) > 500:
        return False
    path = Path(text)
    if not any(map(str.isspace, text)) and ("/" in text or _SUFFIX.fullmatch(path.suffix)):
        return True
    return path.exists()


def interpret(word: str, against: str | None = None, *, name: str | None = None) -> Interpretation:
    """The concept of the words. A single word that steer's packs define is that concept.

    Raises:
        UsageError: one of two words is a file.
        InputError: a word is empty, or both are equal.
    """
    for text in (word, against or ""):
        if against is not None and text and looks_like_file(text):
            raise UsageError(
                f"{text!r} is a file, and two words were expected",
                hint="for two files of texts use --positive-file and --negative-file; give one file"
                " of contrasts alone",
            )
    if against is not None and not against.strip():
        concept_of(against)  # raises: an empty second word is a mistake
    concept = concept_of(word, against or "", name=name)
    if against is not None:
        return Interpretation(concept, f"{word!r} against {against!r}, as two words")
    shipped = find((entry.concept for entry in pack.everything()), word)
    if shipped is not None:
        concept = replace(shipped, name=name or shipped.name)
        return Interpretation(concept, f"{word!r} as steer's own concept {shipped.name}: {concept}")
    return Interpretation(concept, f"{word!r} as a word, against the unchanged model")
