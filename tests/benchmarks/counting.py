"""CPU time of counting changed activations, beside the matrix products of a forward.

    python tests/benchmarks/counting.py

Steers at all 30 layers of a model with the shape of SmolLM2-135M compare each activation before and
after: in the prompt, and in the next token. Afterwards nothing is compared in a text that has
changed. The products are those of blocks and head for the same tokens, without attention.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

from steer.hooks.acting import changed

LAYERS, WIDTH, INNER, KEYS, VOCABULARY = 30, 576, 1_536, 192, 49_152


def seconds(function: Callable[[], object], repeats: int) -> float:
    """CPU seconds of this thread, of one call."""
    function()
    start = time.thread_time()
    for _ in range(repeats):
        function()
    return (time.thread_time() - start) / repeats


def main() -> None:
    torch.set_num_threads(1)
    weights = torch.randn(WIDTH, INNER)
    block = 3 * WIDTH * INNER + WIDTH * (2 * WIDTH + 2 * KEYS)
    print("rows  tokens  counting    products    share")
    for rows, tokens in ((1, 16), (1, 1), (32, 16), (32, 128), (32, 1)):
        before = torch.randn(rows, tokens, WIDTH)
        after = before + 1e-3
        flat = before.reshape(-1, WIDTH)
        counting = LAYERS * seconds(partial(changed, before, after, before.dtype), 30)
        each = seconds(partial(torch.matmul, flat, weights), 10)
        products = each * (LAYERS * block + WIDTH * VOCABULARY / tokens) / (WIDTH * INNER)
        share = counting / products
        times = f"{1e3 * counting:>5.1f} ms  {1e3 * products:>7.0f} ms"
        print(f"{rows:>4}  {tokens:>6}  {times}  {share:.1%}", flush=True)


if __name__ == "__main__":
    main()
