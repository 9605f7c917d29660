"""Work that is killed, `kill -9`, at any moment, and gone on with until it is through.

A script says what the work is and how much of it is kept (`main`), and a test starts the script
(`rounds_of`). One process imports torch, and what is killed are forks of it: they begin at once.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch


def rounds_of(script: str, folder: Path, n: int) -> list[list[int]]:
    """Of each of n works that the script had killed, how much was kept after each kill."""
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name(script), folder, str(n)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert run.returncode == 0, run.stderr
    rounds = [[int(count) for count in line.split()] for line in run.stdout.splitlines()]
    assert len(rounds) == n
    return rounds


def main(
    work: Callable[[Path], None],
    kept: Callable[[Path], int],
    *,
    suffix: str = "",
    longest: float = 0.6,
    growth: float = 1.0,
) -> None:
    """`python SCRIPT FOLDER N`: the work once without harm, into FOLDER/whole, and N times into
    FOLDER/killed-0 and so on.

    Each is killed after a random share, up to `longest`, of the time that the work takes, `growth`
    times as long after each kill: what is not kept takes a while too. A line of what was kept after
    each is printed.
    """
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)  # A fork has no other threads.
    start = time.perf_counter()
    work(folder / f"whole{suffix}")
    took = time.perf_counter() - start
    for number in range(int(sys.argv[2])):
        path, rng = folder / f"killed-{number}{suffix}", random.Random(number)
        counts: list[int] = []
        while not _through(work, path, took * rng.uniform(0.05, longest) * growth ** len(counts)):
            counts.append(kept(path))
        sys.stdout.write(" ".join(map(str, counts)) + "\n")


def _through(work: Callable[[Path], None], path: Path, seconds: float) -> bool:
    """Whether the work was through before it was killed."""
    child = os.fork()
    if child == 0:
        work(path)
        os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == 0
