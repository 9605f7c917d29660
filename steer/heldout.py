"""Held-out data: what a vector is measured on, and whether it was made from any of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steer import overlap
from steer.contrasts import Contrasts, Fields, pairs
from steer.errors import InputError
from steer.metadata import Metadata
from steer.records import records, text_field


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Pairs, or texts that a condition is to act on; one of them is None."""

    pairs: Contrasts | None = None
    texts: tuple[str, ...] | None = None

    @property
    def all_texts(self) -> list[str]:
        """Everything in it, one text after the other."""
        return overlap.texts_of(self.pairs) if self.pairs is not None else list(self.texts or ())


def read(data: bytes, source: str, fields: Fields | None = None) -> HeldOut:
    """Pairs, as `contrasts.pairs` reads them, or texts: plain strings or `{"text": "..."}`.

    Raises:
        InputError: naming the file, the line and what is wrong.
    """
    _, first = next(records(data, source))
    if fields is None and (isinstance(first, str) or (isinstance(first, dict) and "text" in first)):
        return HeldOut(texts=tuple(texts(data, source)))
    return HeldOut(pairs(data, source, fields))


def texts(data: bytes, source: str) -> list[str]:
    """Texts: plain strings or `{"text": "..."}`.

    Raises:
        InputError: naming the file, the line and what is wrong.
    """
    found = []
    for where, record in records(data, source):
        text = record if isinstance(record, str) else text_field(where, record, "text")
        if not text.strip():
            raise InputError(f"{where}: the text is empty")
        found.append(text)
    return found


def check_unseen(
    vectors: Sequence[Metadata], held_out: Sequence[str], *, allowed: bool = False
) -> list[str]:
    """Warnings: of vectors that cannot say what they were made from, or of overlap if `allowed`.

    Raises:
        InputError: a vector was made from some of the texts.
    """
    warnings = []
    for metadata in vectors:
        if metadata.contrast.items is None:
            if metadata.method.name != "distill":  # made from texts that the model wrote
                warnings.append(
                    f"vector {metadata.name!r} does not say which texts it was made from: whether"
                    " these were held out is for you to know"
                )
            continue
        seen = overlap.known(held_out, metadata.contrast.items)
        if not seen:
            continue
        example = " ".join(held_out[seen[0]].split())[:40]
        fact = (
            f"vector {metadata.name!r} was made from {len(seen)} of these {len(held_out)} texts,"
            f" such as {example!r}"
        )
        if not allowed:
            raise InputError(
                fact, hint="measure on other texts, or pass --allow-overlap and say so"
            )
        warnings.append(fact)
    return warnings
