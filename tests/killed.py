"""What `test_resume.py` starts: recordings that are killed, `kill -9`, at any moment.

`python killed.py FOLDER N` records once without harm into FOLDER/whole, and N times into
FOLDER/killed-0 and so on, each by processes that are killed a random time after they began, until
one of them is through; it prints a line of how many passages the file held after each of those. One
process imports torch, and what is killed are forks of it: they begin at once.
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
from recorded import pairs

from steer.extract import Plan, ReadSettings, plan, record_contrasts
from steer.fitting.activations import resume
from steer.hooks import record
from steer.models.model import Model
from steer.workers import InProcess

PAIRS = [(f"w{i} w{i + 7} w{i + 9}", f"w{i} w{i + 20} w{i + 3}") for i in range(3, 39)]


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)  # A fork has no other threads.
    record.token_budget = lambda model: 24  # two or three passages a batch
    model = tiny.model("llama")
    planned = plan(model, pairs(*PAIRS), ReadSettings())
    start = time.perf_counter()
    with record_contrasts(InProcess(model), planned, folder / "whole"):
        took = time.perf_counter() - start
    for number in range(int(sys.argv[2])):
        held = survived(model, planned, folder / f"killed-{number}", random.Random(number), took)
        sys.stdout.write(" ".join(map(str, held)) + "\n")


def survived(model: Model, planned: Plan, path: Path, rng: random.Random, took: float) -> list[int]:
    """Records in spite of kills; how many passages the file held after each."""
    held = []
    while True:
        child = os.fork()
        if child == 0:
            with record_contrasts(InProcess(model), planned, path):
                os._exit(0)
        time.sleep(took * rng.uniform(0.05, 0.6))
        os.kill(child, signal.SIGKILL)
        if os.waitpid(child, 0)[1] == 0:
            return held
        with resume(path, planned.recording) as found:
            held.append(int(found.done().sum()))


if __name__ == "__main__":
    main()
