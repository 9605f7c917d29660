"""How much fits: the size of a batch, from the memory that is free."""

from __future__ import annotations

import os

import torch

from steer.models.model import Model

#: Tokens, padding counted, of a batch where memory is plenty; with more, nothing gets faster.
CPU_TOKENS = 2_048
ACCELERATOR_TOKENS = 32_768
FEWEST_TOKENS = 256
#: Numbers that a forward without gradients holds at its widest, for each token and unit of width.
NUMBERS_A_TOKEN = 64


def token_budget(model: Model) -> int:
    """Tokens to run at once: a power of two, so that a little more or less free memory leaves the
    batches, and with them the last digit of each result, as they are.
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
    """Tokens whose keys and values fit into half of the memory that is free."""
    free = free_bytes(model.device)
    if free is None:
        return ACCELERATOR_TOKENS
    token = 2 * model.n_layers * model.identity.d_model * model.network.dtype.itemsize
    return max(int(free // 2 // token), 1)


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a device; None where it cannot be known."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    names = {"SC_AVPHYS_PAGES", "SC_PAGE_SIZE"}
    if device.type == "cpu" and names <= set(getattr(os, "sysconf_names", ())):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def ran_out(error: RuntimeError) -> bool:
    """Whether memory was short, on any device."""
    # The allocator of the CPU has no type of error of its own.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
