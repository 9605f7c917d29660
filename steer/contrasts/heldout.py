"""Held-out data to measure a vector on, and the check that it was not made from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from steer.base.errors import InputError
from steer.contrasts import contrast_files, overlap
from steer.contrasts.contrasts import Contrasts, ContrastSource
from steer.contrasts.frame import PLAIN, Frame
from steer.contrasts.passages import Passage
from steer.contrasts.records import Record
from steer.contrasts.schema import Names
from steer.vectors.metadata import Metadata

#: Fewer pairs or texts than this are not measured on where others have to be left out.
FEWEST = 8
_PAIRS = 'write {"positive": "...", "negative": "...", "prompt": "..."}'


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out pairs, or held-out texts for a condition; the other is None.

    notes: lines for the user about what was left out.
    """

    pairs: Contrasts | None = None
    texts: tuple[Passage, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def all_texts(self) -> list[str]:
        """All texts, for `overlap.sketch`."""
        if self.pairs is not None:
            return list(overlap.texts_of(self.pairs))
        return [passage.text for passage in self.texts or ()]

    def first(self, n: int) -> HeldOut:
        """The first n pairs or texts."""
        passages = self.texts if self.pairs is None else self.pairs.positive
        return self.some(range(min(n, len(passages or ()))))

    def some(self, indices: Sequence[int]) -> HeldOut:
        """The pairs or texts of these numbers."""
        pairs, texts = self.pairs, self.texts
        if pairs is not None:
            positive, negative = (
                tuple(side[index] for index in indices) for side in (pairs.positive, pairs.negative)
            )
            pairs = replace(pairs, positive=positive, negative=negative)
        if texts is not None:
            texts = tuple(texts[index] for index in indices)
        return HeldOut(pairs, texts, self.notes)

    @property
    def chat(self) -> bool:
        """Whether the texts are chat messages."""
        passages = self.pairs.positive if self.pairs is not None else self.texts
        return bool(passages) and passages is not None and passages[0].role is not None

    @property
    def prompts(self) -> list[str]:
        """The prompts of the pairs, each once: plain texts, or the user's only message."""
        prompts = []
        for passage in self.pairs.positive if self.pairs is not None else ():
            turns = [turn for turn in passage.turns if turn.role != "system"]
            if passage.role is None:
                prompts.append(passage.prompt)
            elif passage.role == "assistant" and len(turns) == 1:
                prompts.append(turns[0].content)
        return list(dict.fromkeys(prompts))


def read(records: Iterable[Record], names: Names | None = None, *, chat: bool = False) -> HeldOut:
    """Read pairs or texts from a contrast file; with `chat`, as chat messages.

    Raises:
        InputError: naming the file, the line and what is wrong.
    """
    names, frame = names or Names(), Frame(chat=chat)
    first, rest = contrast_files.first_of(records)
    if names.shape(*first) == "texts":
        passages, notes = contrast_files.read_texts(rest, names, frame)
        return HeldOut(texts=passages, notes=notes)
    pairs = contrast_files.read(ContrastSource("-", names=names, frame=frame), lambda _: rest)
    if not pairs.paired or pairs.conditions is not None:
        kind = "conditions" if pairs.conditions is not None else "texts that are not paired"
        raise InputError(f"{first[0]}: these are {kind}, not held-out pairs", hint=_PAIRS)
    return HeldOut(pairs, notes=pairs.notes)


def texts(records: Iterable[Record], names: Names | None = None) -> HeldOut:
    """Read texts without any context.

    Raises:
        InputError: naming the file, the line and what is wrong.
    """
    passages, notes = contrast_files.read_texts(records, names or Names(), PLAIN)
    return HeldOut(texts=passages, notes=notes)


def without_seen(vectors: Iterable[Metadata], held_out: HeldOut) -> tuple[HeldOut, str]:
    """The pairs or texts that no vector was made from, and a line that says so: one file can then
    be made from and measured on. Where fewer than `FEWEST` are left, all, for `check_unseen` to
    refuse, and no line.
    """
    every = held_out.all_texts
    seen: dict[int, str] = {}
    for metadata in vectors:
        if metadata.contrast.items is not None:
            for index in overlap.known(every, metadata.contrast.items):
                seen[index] = metadata.name
    sides = 1 if held_out.pairs is None else 2
    n = len(every) // sides
    kept = [index for index in range(n) if not {index, index + n} & set(seen)]
    if not seen or len(kept) < FEWEST:
        return held_out, ""
    items = "texts" if held_out.pairs is None else "pairs"
    name = next(iter(seen.values()))
    line = (
        f"vector {name!r} was made from {n - len(kept)} of these {n} {items}, which are left out:"
        f" measured on the other {len(kept)}"
    )
    return held_out.some(kept), line


def check_unseen(
    vectors: Iterable[Metadata], held_out: Sequence[str], *, allowed: bool = False
) -> list[str]:
    """Refuse texts that a vector was made from. Gives warnings about vectors that do not record
    their texts, and, if `allowed`, about overlap.

    Raises:
        InputError: a vector was made from some of the texts, and `allowed` is off.
    """
    warnings = []
    for metadata in vectors:
        if metadata.contrast.items is None:
            if metadata.method.name != "distill":  # made from texts that the model wrote
                warnings.append(
                    f"vector {metadata.name!r} does not record which texts it was made from, so"
                    " steer cannot check that these were held out"
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
                fact,
                hint="measure on other texts, make the vector with --held-out 0.25 of this file, or"
                " pass --allow-overlap and say so",
            )
        warnings.append(fact)
    return warnings
