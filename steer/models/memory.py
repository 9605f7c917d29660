"""Memory: the size of batches that fits into what is free, and a setting of the allocator."""

from __future__ import annotations

import ctypes
import os
import sys

import torch

from steer.models.model import Model

#: The most tokens in a batch, including padding; larger batches are not faster.
CPU_TOKENS = 2_048
ACCELERATOR_TOKENS = 32_768
FEWEST_TOKENS = 256
#: The peak memory of a forward without gradients, in numbers per token and unit of width.
NUMBERS_A_TOKEN = 64


def token_budget(model: Model) -> int:
    """The number of tokens to run at once. A power of two, so that small changes of free memory do
    not change the batches, and with them the last digits of results.
    """
    on_cpu = model.device.type == "cpu"
    most = CPU_TOKENS if on_cpu else ACCELERATOR_TOKENS
    free = free_bytes(model.device)
    if free is None:
        return most
    token = NUMBERS_A_TOKEN * model.identity.d_model * model.network.dtype.itemsize
    fits = max(free // 2 // token, 1)
    return int(max(FEWEST_TOKENS, min(most, 1 << (fits.bit_length() - 1))))


def cached_tokens(model: Model) -> int:
    """The number of tokens whose keys and values fit into half of the free memory."""
    free = free_bytes(model.device)
    if free is None:
        return ACCELERATOR_TOKENS
    token = 2 * model.n_layers * model.identity.d_model * model.network.dtype.itemsize
    return max(int(free // 2 // token), 1)


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a device in bytes; None if it is unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    names = {"SC_AVPHYS_PAGES", "SC_PAGE_SIZE"}
    if device.type == "cpu" and names <= set(getattr(os, "sysconf_names", ())):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def ran_out(error: RuntimeError) -> bool:
    """Whether an error means that a device ran out of memory."""
    # The CPU's allocator has no exception type of its own.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


#: Options of glibc's mallopt: the free memory from which it returns some to the system, and the
#: size from which it asks the system for a block; 32 MiB is the largest that it allows.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
KEPT, LARGEST = 256 << 20, 32 << 20


def keep_freed() -> None:
    """Let the process keep up to `KEPT` bytes of freed memory, on Linux.

    Otherwise every op of every batch asks the system for its memory anew, page by page, which takes
    a fifth of the time of a forward on a CPU.
    """
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        malloc = ctypes.CDLL(None)
        malloc.mallopt(_TRIM_THRESHOLD, KEPT)
        malloc.mallopt(_MMAP_THRESHOLD, LARGEST)
