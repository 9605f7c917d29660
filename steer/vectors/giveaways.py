"""Confounds of a contrast set, as a vector file records them, and warnings about them."""

from __future__ import annotations

from typing import Literal

from steer.vectors.record import Record, finite

#: From this AUC or accuracy on there is a warning; 0.5 is chance, 1 perfect separation.
TELLS = 0.8
#: From this share of near-duplicates on there is a warning.
MANY = 0.2


class Lengths(Record, frozen=True):
    """Lengths of the texts of one side."""

    least: int
    median: float
    most: int

    def __post_init__(self) -> None:
        finite(self.median)


class Giveaways(Record, frozen=True):
    """Differences between the sides of a contrast set besides the concept, and repeated texts.

    unit: the unit of lengths: tokens or, without a tokenizer, words. length_auc: the probability
    that the positive text is longer, of a pair or of any two texts; ties count half. first_token:
    the share of pairs (or unpaired texts) that the first token that can differ classifies
    correctly; at least 0.5, which is chance. Both are None if the texts of both sides are the same
    by construction, or too few. duplicates: pairs (or texts) that repeat an earlier one.
    equal_sides: pairs with the same text on both sides, or unpaired texts on both sides.
    near_duplicates: the share with a near-duplicate in another cross-validation fold.
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
        """Warnings about the set, each with something to try."""
        warnings = []
        if self.length_auc is not None and abs(self.length_auc - 0.5) >= TELLS - 0.5:
            warnings.append(
                f"length alone separates the sides (AUC {self.length_auc:.2f}; median"
                f" {self.positive.median:g} {self.unit} against {self.negative.median:g}): the"
                " vector may be one of length; make the lengths equal"
            )
        if self.first_token is not None and self.first_token >= TELLS:
            warnings.append(
                f"the first {self.unit[:-1]} gives the side away in {self.first_token:.0%} of the"
                f" {'pairs' if paired else 'texts'}: the vector may be one of single words;"
                " vary how texts begin, or swap the answers in half of the questions"
            )
        items = "pairs" if paired else "texts"
        if self.duplicates:
            warnings.append(
                f"{self.duplicates:,} {items} repeat an earlier one and count twice; leave them out"
            )
        if self.equal_sides:
            warnings.append(
                f"{self.equal_sides:,} pairs have the same text on both sides; leave them out"
                if paired
                else f"{self.equal_sides:,} texts are on both sides; remove them from one"
            )
        if self.near_duplicates >= MANY:
            warnings.append(
                f"{self.near_duplicates:.0%} of the {items} are near-duplicates of others, so"
                " held-out separability is partly measured on texts that were seen; vary them"
            )
        return warnings
