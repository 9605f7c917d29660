"""A cell: one setting under which texts are scored or generated."""

from __future__ import annotations

from dataclasses import dataclass

from steer.steering.steers import Steer


@dataclass(frozen=True, slots=True)
class UnsteeredCell:
    """The unsteered model."""


@dataclass(frozen=True, slots=True)
class PromptedCell:
    """The unsteered model with the condition before the text."""


@dataclass(frozen=True, slots=True)
class SteeredCell:
    """The model under steers, at least one."""

    steers: tuple[Steer, ...]

    def __post_init__(self) -> None:
        if not self.steers:
            raise ValueError("a cell without steers is an UnsteeredCell")


@dataclass(frozen=True, slots=True)
class GuidedCell:
    """The model without and with the condition before the text, in the guided distribution of both
    (`steer.generate.guidance`): strength 1 is the condition, 0 is none."""

    strength: float


Cell = UnsteeredCell | PromptedCell | SteeredCell | GuidedCell

UNSTEERED, PROMPTED = UnsteeredCell(), PromptedCell()


def steers_of(cell: Cell) -> tuple[Steer, ...]:
    """The steers of a cell; empty for an unsteered one."""
    return cell.steers if isinstance(cell, SteeredCell) else ()
