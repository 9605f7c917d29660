"""Contrasting texts: what a contrast set is, and how a user names one.

A passage is a text and what stands round it; activations of the text are read. A set has a positive
and a negative side, which differ in what the vector should carry. Kinds:

pairs       two passages that differ, or one prompt completed in two ways
choice      pairs that answer a question by a letter, a number or yes and no
conditions  the same texts after prompts that differ, each condition with each text
unpaired    two sets of texts, from two files or from rows with a label
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from steer.base.errors import InputError, UsageError
from steer.contrasts.frame import PLAIN, Frame
from steer.contrasts.passages import Passage, check_alike
from steer.contrasts.schema import Names
from steer.vectors.provenance import ContrastKind
from steer.vectors.sources import Records

@dataclass(frozen=True, slots=True)
class Contrasts:
    """A whole contrast set.

    paired: the i-th passages of the two sides belong together. conditions: the prompts of both
    sides, where the kind is that. records: which passages of a side share a record, and so a text,
    as `steer.vectors.sources` has it. notes: what was left out, for the user to know.

    Raises:
        InputError: a side is empty, all passages of it are also on the other, or some are messages
            and others not.
    """

    kind: ContrastKind
    positive: Sequence[Passage]
    negative: Sequence[Passage]
    paired: bool = True
    frame: Frame = PLAIN
    conditions: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    records: Records = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for side, passages in (("positive", self.positive), ("negative", self.negative)):
            if not passages:
                raise InputError(f"there are no contrasts: no {side} text")
        if self.conditions is not None:
            return  # `contrast_files` has looked at each text and each condition once
        if set(self.positive) == set(self.negative) and (
            not self.paired or self.positive == self.negative
        ):
            raise InputError("positive and negative are the same texts")
        check_alike(chain(self.positive, self.negative))

    @property
    def n_passages(self) -> int:
        return len(self.positive) + len(self.negative)

    @property
    def completes(self) -> bool:
        """Whether every text is a completion."""
        return all(passage.completes for passage in chain(self.positive, self.negative))

    @property
    def sha256(self) -> str:
        """Hash of all passages in order."""
        rows: Iterable[Any]
        if self.paired:
            both = zip(self.positive, self.negative, strict=True)
            rows = ([_plain(side) for side in pair] for pair in both)
        else:
            sides = (("positive", self.positive), ("negative", self.negative))
            rows = ([name, _plain(passage)] for name, side in sides for passage in side)
        digest = hashlib.sha256()
        for row in rows:
            digest.update(json.dumps(row).encode() + b"\n")
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class ContrastSource:
    """Contrasts as the user names them.

    file: of contrasts of any kind. Or positive, negative: conditions, and texts: a file of what
    each stands before. Or positive_file, negative_file: of texts of one side each, which are
    pairs if `paired`.

    Raises:
        UsageError: none of these, or several.
    """

    file: str | None = None
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    texts: str | None = None
    positive_file: str | None = None
    negative_file: str | None = None
    paired: bool = False
    names: Names = field(default_factory=Names)
    frame: Frame = PLAIN

    def __post_init__(self) -> None:
        files = (self.positive_file, self.negative_file)
        ways = [self.file, self.positive or self.negative or self.texts, any(files)]
        if sum(map(bool, ways)) != 1:
            raise UsageError(
                "name contrasts in one way",
                hint="a FILE, or --positive and --texts, or --positive-file and --negative-file",
            )
        if self.texts is None and (self.positive or self.negative):
            raise UsageError("conditions need texts to stand before", hint="pass --texts FILE")
        if self.texts is not None and not self.positive:
            raise UsageError("--texts needs a condition", hint="pass --positive TEXT")
        if any(files) and not all(files):
            raise UsageError("--positive-file and --negative-file go together")
        if self.paired and not all(files):
            raise UsageError("--paired is for --positive-file and --negative-file")
        if self.file is None:
            self.names.check_files(*(("texts",) if self.texts else ("positive", "negative")))
        else:
            self.names.check_files()


def _plain(passage: Passage) -> list[Any]:
    """A passage as JSON: short where there is only a prompt and a text."""
    if passage.role is None and not passage.suffix:
        return [passage.prompt, passage.text]
    turns = [[turn.role, turn.content, *_extra(turn.extra)] for turn in passage.turns]
    own = _extra(passage.extra)
    return [passage.prompt, passage.text, passage.suffix, passage.role, turns, *own]


def _extra(extra: str) -> list[str]:
    return [extra] if extra else []
