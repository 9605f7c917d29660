"""Follow which positions of each row belong to thoughts, and which to the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from steer.hooks.folding import Folding
from steer.models.thoughts import Stage, Thoughts, ThoughtTracker

#: Tokens of a prompt's end that are searched for a tag.
_TAIL = 24


class ThoughtTrackers:
    """Follows the tokens of all rows through the forwards of a generation, or through whole texts.

    tokens: gives the texts of tokens, as the tokenizer shows them.
    """

    def __init__(self, thoughts: Thoughts, tokens: Callable[[list[int]], list[str]]) -> None:
        self._thoughts, self._tokens = thoughts, tokens
        self._trackers: list[ThoughtTracker | None] = []
        self._tails: list[list[str]] = []
        self._stages: list[list[Stage | None]] = []
        self._stop = 0
        self._ids: Tensor | None = None

    def at(
        self,
        stage: Stage,
        ids: Tensor,
        folding: Folding | None,
        start: int,
        pads: Sequence[int],
        zeros: Sequence[int],
    ) -> Tensor:
        """Which positions of a forward predict a token in this stage, bool [row, position].

        ids: int64 [row, position], from column `start` on. folding: of texts in packed rows; the
        result is by texts. pads: padding before each prompt. zeros: the column of step 0, of each
        prompt or of all. Rows of a prompt are adjacent.
        """
        # Once for all sites of a forward.
        if ids is not self._ids:
            self._ids = ids
            texts = ids if folding is None else folding.unfolded(ids)
            self._follow(texts, start, pads, zeros)
        return torch.tensor([[own is stage for own in row] for row in self._stages])

    def _follow(self, ids: Tensor, start: int, pads: Sequence[int], zeros: Sequence[int]) -> None:
        n_rows = len(ids)
        if start != self._stop or len(self._trackers) != n_rows:  # a text runs from its beginning
            self._trackers = [None] * n_rows
            self._tails = [[] for _ in range(n_rows)]
        self._stop = start + ids.shape[1]
        self._stages = [
            self._row(
                row, own, start, pads[row * len(pads) // n_rows], zeros[row * len(zeros) // n_rows]
            )
            for row, own in enumerate(ids.tolist())
        ]

    def _row(self, row: int, ids: list[int], start: int, pad: int, zero: int) -> list[Stage | None]:
        """The stage after each token of a row; None in its prompt."""
        stages: list[Stage | None] = []
        for column, token in enumerate(self._tokens(ids), start):
            tracker = self._trackers[row]
            if column <= zero:
                if column >= pad:
                    self._tails[row] = [*self._tails[row], token][-_TAIL:]
                if column == zero:
                    tracker = ThoughtTracker(self._thoughts, "".join(self._tails[row]))
                    self._trackers[row] = tracker
            elif tracker is not None:
                tracker.follow(token)
            stages.append(None if tracker is None else tracker.stage)
        return stages
