"""Detect held-out texts that a vector was made from.

A vector file keeps a hash of each text, which does not reveal the text.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from steer.base.errors import VectorError
from steer.contrasts.contrasts import Contrasts
from steer.contrasts.passages import Passage

#: Bytes of a hash: between two sets of ten thousand different texts, the probability of a
#: collision is one in ten thousand.
SIZE = 5
#: Of more texts than this, only the smallest hashes are kept: a reproducible random sample.
MOST = 20_000


def sketch(texts: Iterable[str]) -> str:
    """Sorted hashes of the texts in base64; it depends only on the set of texts."""
    return _encoded({_hash(text) for text in texts})


def merged(sketches: Sequence[str | None]) -> str | None:
    """The sketch of all texts together; None if one of the sketches is None."""
    hashes: set[bytes] = set()
    for kept in sketches:
        if kept is None:
            return None
        hashes |= _hashes(kept)
    return _encoded(hashes)


def known(texts: Sequence[str], kept: str) -> list[int]:
    """Indices of the texts whose hashes are in the sketch `kept`.

    Raises:
        VectorError: `kept` is not a sketch.
    """
    hashes = _hashes(kept)
    return [index for index, text in enumerate(texts) if _hash(text) in hashes]


def texts_of(contrasts: Contrasts) -> Iterator[str]:
    """The texts of a contrast set: those of both sides, or the texts without their conditions.

    The frame round them is left out, so that a text is recognised in a chat and outside it.
    """
    if contrasts.conditions is not None:
        return (passage.text for passage in contrasts.positive)
    sides = chain(contrasts.positive, contrasts.negative)
    template = contrasts.frame.template
    if template is not None and "{prompt}" not in template:
        return (passage.text for passage in sides)
    return map(_in_full, sides)


def _in_full(passage: Passage) -> str:
    turns = [turn.content for turn in passage.turns if turn.role != "system"]
    return " ".join([*turns, passage.full_text])


def _encoded(hashes: set[bytes]) -> str:
    return base64.b64encode(b"".join(sorted(hashes)[:MOST])).decode()


def _hashes(kept: str) -> set[bytes]:
    try:
        joined = base64.b64decode(kept, validate=True)
    except ValueError:
        joined = b"?"
    if len(joined) % SIZE:
        raise VectorError("the hashes of the texts that a vector was made from are damaged")
    return {joined[start : start + SIZE] for start in range(0, len(joined), SIZE)}


def _hash(text: str) -> bytes:
    # White space is ignored: chat templates add some, and a prompt may end in it.
    return hashlib.sha256("".join(text.split()).encode()).digest()[:SIZE]
