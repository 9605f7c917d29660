"""What texts give away by themselves, as a vector file keeps it, and what is said of it."""

from __future__ import annotations

from typing import Literal

from steer.vectors.record import Record, finite

#: Where a give-away is spoken of: 0.5 is none, 1 is all.
TELLS = 0.8
#: The share of near-duplicates that is spoken of.
MANY = 0.2


class Lengths(Record, frozen=True):
    """Of the texts of one side."""

    least: int
    median: float
    most: int

    def __post_init__(self) -> None:
        finite(self.median)


class Giveaways(Record, frozen=True):
    """What tells the sides of a contrast apart beside its meaning, and what repeats.

    unit: what texts were counted in: tokens or, without a tokenizer, words. length_auc: the chance
    that the positive text is the longer one, of a pair or of any two, ties counted half.
    first_token: the share of pairs (or unpaired texts) whose sides are told by the first token that
    can differ, from where the others have it; 0.5 is none, and the least. Both are None where the
    texts are the same by construction, or too few. duplicates: pairs (or texts) that repeat an
    earlier one. equal_sides: pairs whose sides are the same, or unpaired texts on both.
    near_duplicates: the share that have a near-duplicate in another fold of the held-out test.
    """

    unit: Literal["words", "tokens"]
    positive: Lengths
    negative: Lengths
    length_auc: float | None
    first_token: float | None
    duplicates: int
    equal_sides: int
    near_duplicates: float

    def __post_init__(self) -> None:
        finite(self.length_auc or 0.0, self.first_token or 0.0, self.near_duplicates)

    def warnings(self, *, paired: bool) -> list[str]:
        """What speaks against the set, each with what to try; none if nothing does."""
        found = []
        if self.length_auc is not None and abs(self.length_auc - 0.5) >= TELLS - 0.5:
            found.append(
                f"length alone tells the sides apart (AUC {self.length_auc:.2f}; in the median"
                f" {self.positive.median:g} {self.unit} against {self.negative.median:g}): the"
                " vector may be one of length; even the lengths out"
            )
        if self.first_token is not None and self.first_token >= TELLS:
            found.append(
                f"the first {self.unit[:-1]} gives the side away in {self.first_token:.0%} of the"
                f" {'pairs' if paired else 'texts'}: the vector may be one of single words;"
                " vary how texts begin, or swap the answers in half of the questions"
            )
        things = "pairs" if paired else "texts"
        if self.duplicates:
            found.append(
                f"{things} that repeat an earlier one, and so count twice: {self.duplicates:,};"
                " leave them out"
            )
        if self.equal_sides:
            found.append(
                f"pairs whose sides are the same, and so say nothing: {self.equal_sides:,};"
                " leave them out"
                if paired
                else f"texts that stand on both sides: {self.equal_sides:,}; take them from one"
            )
        if self.near_duplicates >= MANY:
            found.append(
                f"{self.near_duplicates:.0%} of the {things} are nearly the same as others, so that"
                " held-out separability is partly about texts that were seen; vary them"
            )
        return found
