"""Near-duplicate texts, found without comparing every pair. No torch."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from zlib import crc32

import numpy as np

#: The Jaccard similarity of their runs of words from which two texts are near-duplicates.
ALIKE = 0.8
SHINGLE = 3
BANDS, ROWS = 20, 4
#: How many earlier texts of its bucket a text is compared with: enough where all are alike.
MOST = 8
_PRIME = (1 << 31) - 1


def near_duplicates(texts: Sequence[str]) -> set[tuple[int, int]]:
    """Pairs of texts, by index, that share at least `ALIKE` of their runs of three words.

    Case and punctuation do not count. Candidates come from MinHash signatures in bands (Broder
    1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4), which miss one
    in 30,000 pairs at `ALIKE`; each is then compared exactly.
    """
    rng = np.random.default_rng(0)
    factors, offsets = rng.integers(1, _PRIME, (2, BANDS * ROWS, 1))
    signatures = np.zeros((len(texts), BANDS, ROWS), np.int32)
    for index, text in enumerate(texts):
        hashes = np.fromiter(_shingles(text), np.int64)
        minima = ((hashes * factors + offsets) % _PRIME).min(1)
        signatures[index] = minima.reshape(BANDS, ROWS)
    candidates: set[tuple[int, int]] = set()
    for band in range(BANDS):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for index, signature in enumerate(signatures[:, band]):
            bucket = buckets[signature.tobytes()]
            candidates.update((earlier, index) for earlier in bucket[-MOST:])
            bucket.append(index)
    # Computed again, since storing all of them would take more memory than the texts.
    shingles = lru_cache(maxsize=100)(lambda index: _shingles(texts[index]))
    return {(a, b) for a, b in sorted(candidates) if _jaccard(shingles(a), shingles(b)) >= ALIKE}


def _shingles(text: str) -> set[int]:
    words = re.findall(r"\w+", text.casefold()) or [text]
    runs = [words[i : i + SHINGLE] for i in range(max(1, len(words) - SHINGLE + 1))]
    return {crc32(" ".join(run).encode()) & 0x7FFFFFFF for run in runs}


def _jaccard(first: set[int], second: set[int]) -> float:
    return len(first & second) / len(first | second)
