"""The passages of a side that come from the same record, and may share texts. No torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Of the passages of each side: None, each is of a record of its own; a number n, passage i is of
#: record i modulo n; several, so many neighbours are of each record.
Records = int | tuple[int, ...] | None


def record_numbers(records: Records, n_passages: int) -> NDArray[np.int64]:
    """The number of the record that each passage of a side is of, int64 [n_passages]."""
    if isinstance(records, tuple):
        return np.repeat(np.arange(len(records)), records)
    numbers = np.arange(n_passages)
    return numbers if records is None else numbers % records
