"""Contrast sets, and the ways in which a user names one.

A passage is a text with its context; the activations of the text are read. A set has a positive
and a negative side, which differ in the concept that the vector should carry. Kinds:

pairs       two passages that differ, or one prompt completed in two ways
choice      pairs that answer a question with a letter, a number, or yes and no
conditions  the same texts after different prompts: each condition with each text
unpaired    two sets of texts, from two files or from rows with a label
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
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
    sides; None for other kinds. records: which passages of a side share a record, and so a text, as
    `steer.vectors.sources` has it. notes: lines for the user about what was left out.

    Raises:
        InputError: a side is empty, both sides are equal, or chat messages and plain texts are
            mixed.
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
            return  # `contrast_files` has checked each text and each condition once
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
    def are_answers(self) -> bool:
        """Whether every text is what a chat model says."""
        return all(passage.role == "assistant" for passage in chain(self.positive, self.negative))

    @property
    def are_plain_answers(self) -> bool:
        """Whether every text completes a prompt of its own, as plain text."""
        plain = self.frame == PLAIN and self.conditions is None
        return plain and self.completes and not self.are_answers

    def for_template(self, *, has_template: bool) -> Contrasts:
        """Plain answers in the chat template of a model that has one, each prompt as the user's
        message; other contrasts as they are."""
        if not (has_template and self.are_plain_answers):
            return self
        frame = Frame(chat=True)
        positive, negative = (
            tuple(frame.passage("", passage.text, passage.prompt) for passage in side)
            for side in (self.positive, self.negative)
        )
        return replace(self, positive=positive, negative=negative, frame=frame)

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
    """The contrast set that the user names, in one of three ways.

    file: a file of contrasts of any kind; held_out is the share of its records to leave out for
    measurements (`steer.contrasts.split`). Or positive, negative: conditions, and texts: a file of
    texts to put after each. Or positive_file, negative_file: files of texts of one side each,
    which are pairs if `paired`.

    Raises:
        UsageError: in none of these ways, or in several.
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
    held_out: float = 0.0

    def __post_init__(self) -> None:
        if self.held_out and self.file is None:
            raise UsageError("--held-out is a share of a file of contrasts", hint="name the file")
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
    """A passage as JSON; in the short form where it is only a prompt and a text."""
    if passage.role is None and not passage.suffix:
        return [passage.prompt, passage.text]
    turns = [[turn.role, turn.content, *_extra(turn.extra)] for turn in passage.turns]
    own = _extra(passage.extra)
    return [passage.prompt, passage.text, passage.suffix, passage.role, turns, *own]


def _extra(extra: str) -> list[str]:
    return [extra] if extra else []
