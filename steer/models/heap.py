"""What the C library does with memory that tensors let go of."""

from __future__ import annotations

import ctypes
import sys

#: Of glibc's malloc.h. It hands back free memory above the first, and takes what is larger than the
#: second from the system and not from what is free; 32 MiB is the most that it allows.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
KEPT, LARGEST = 256 << 20, 32 << 20


def keep_freed() -> None:
    """Have up to `KEPT` bytes stay with the process when they are freed. On Linux alone.

    The system gives memory back page by page, each at the price of an interrupt, and every op of
    every batch asks for it anew: a fifth of the time of a forward on a CPU.
    """
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        malloc = ctypes.CDLL(None)
        malloc.mallopt(_TRIM_THRESHOLD, KEPT)
        malloc.mallopt(_MMAP_THRESHOLD, LARGEST)
