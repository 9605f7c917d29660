"""What `test_distill.py` starts: distillations that are killed, `kill -9`, at any moment.

`python killed_distill.py FOLDER N` distils once without harm into FOLDER/whole.safetensors, and N
times into FOLDER/killed-0.safetensors and so on, each by processes that are killed a random time
after they began, until one of them is through; it prints a line of how many pieces of work were
kept after each of those. What is killed are forks of this process, as in `killed.py`.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import tiny
import torch

from steer.distillation import lessons
from steer.distillation.distill import distill
from steer.distillation.lessons import Conditions
from steer.distillation.settings import DistillSettings
from steer.journal import Journal
from steer.models.model import Model
from steer.vectors import store

SETTINGS = DistillSettings(
    name="x", rank=2, steps=10, samples=32, held_out=16, max_tokens=12, batch_size=4
)


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)  # A fork has no other threads.
    lessons.SAMPLED_TOGETHER = 8
    model = tiny.model("llama")
    start = time.perf_counter()
    distilled(model, folder / "whole.safetensors")
    took = time.perf_counter() - start
    for number in range(int(sys.argv[2])):
        kept = survived(model, folder / f"killed-{number}.safetensors", random.Random(number), took)
        sys.stdout.write(" ".join(map(str, kept)) + "\n")


def distilled(model: Model, path: Path) -> None:
    kept = Journal(path.with_suffix(".journal"))
    vector = distill(model, Conditions("w5 w9 w33"), ["w4 w7"], SETTINGS, kept=kept)
    store.write(path, vector, force=True)


def survived(model: Model, path: Path, rng: random.Random, took: float) -> list[int]:
    """Distils in spite of kills; how many pieces of work were kept after each."""
    kept = []
    while True:
        child = os.fork()
        if child == 0:
            distilled(model, path)
            os._exit(0)
        # Longer each time: what is not kept, the last descent, takes a while too.
        time.sleep(took * rng.uniform(0.05, 0.6) * 1.3 ** len(kept))
        os.kill(child, signal.SIGKILL)
        if os.waitpid(child, 0)[1] == 0:
            return kept
        kept.append(len(Journal(path.with_suffix(".journal"))))


if __name__ == "__main__":
    main()
