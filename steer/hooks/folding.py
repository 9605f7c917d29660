"""Where the tokens of texts are in packed rows (`steer.hooks.packing`), in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Folding:
    """Maps values of texts, [text, position], to packed rows, [row, column], and back.

    A token that texts share is one column, which has the values of any of them. rows: int64 [text,
    1]. columns: int64 [text, longest], a text's last column repeated as padding. owners, positions:
    int64 [row, longest], a text that has the token, and the token's position in it; 0 at padding.
    """

    rows: Tensor
    columns: Tensor
    owners: Tensor
    positions: Tensor

    @classmethod
    def of(cls, paths: Sequence[tuple[int, NDArray[np.int64]]], shape: tuple[int, int]) -> Folding:
        """paths: the row of each text and the columns of its tokens. shape: of the packed rows."""
        longest = max(len(path) for _, path in paths)
        rows = np.array([row for row, _ in paths])[:, None]
        columns = np.stack([np.pad(path, (0, longest - len(path)), "edge") for _, path in paths])
        owners, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for text, (row, path) in enumerate(paths):
            owners[row, path], positions[row, path] = text, np.arange(len(path))
        return cls(*map(torch.from_numpy, (rows, columns, owners, positions)))

    @property
    def shape(self) -> tuple[int, int]:
        """Texts, and positions of the longest one."""
        return self.columns.shape[0], self.columns.shape[1]

    def folded(self, values: Tensor) -> Tensor:
        """Values [text or 1, position or 1, ...] in packed rows, [row, column, ...]."""
        values = values.expand(*self.shape, *values.shape[2:])
        owners, positions = (index.to(values.device) for index in (self.owners, self.positions))
        return values[owners, positions]

    def unfolded(self, values: Tensor) -> Tensor:
        """Values [row, column, ...] in texts, [text, position, ...]."""
        rows, columns = (index.to(values.device) for index in (self.rows, self.columns))
        return values[rows, columns]
