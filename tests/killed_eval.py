"""What `test_eval_resume.py` starts: evaluations that are killed, `kill -9`, at any moment.

`python killed_eval.py FOLDER N` evaluates once without harm into FOLDER/whole.json, and N times
into FOLDER/killed-0.json and so on, each by processes that are killed a random time after they
began, until one of them is through; it prints a line of how many pieces of work were kept after
each of those. What is killed are forks of this process, as in `killed.py`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import tiny
import torch
from test_evaluate import HELD_OUT, WRITING

from steer.contrasts.heldout import HeldOut
from steer.evaluation import scoring
from steer.evaluation.evaluate import evaluate
from steer.evaluation.task import Task, variants
from steer.intervals import plain
from steer.journal import Journal
from steer.models.model import Model


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)  # A fork has no other threads.
    scoring.token_budget = lambda model: 64  # type: ignore[attr-defined]  # a text or two a batch
    model = tiny.model("llama")
    start = time.perf_counter()
    evaluated(model, folder / "whole.json")
    took = time.perf_counter() - start
    for number in range(int(sys.argv[2])):
        kept = survived(model, folder / f"killed-{number}.json", random.Random(number), took)
        sys.stdout.write(" ".join(map(str, kept)) + "\n")


def evaluated(model: Model, path: Path) -> None:
    rows = variants([tiny.steer(model, 3)], condition="w50 w51")
    done = Journal(path.with_suffix(".journal"))
    found = evaluate(model, rows, Task(HeldOut(HELD_OUT), WRITING), done=done)
    told = [
        [row.variant.label, {name: plain(one) for name, one in row.measures.items()}, row.samples]
        for row in found
    ]
    path.write_text(json.dumps(told))


def survived(model: Model, path: Path, rng: random.Random, took: float) -> list[int]:
    """Evaluates in spite of kills; how many pieces of work were kept after each."""
    kept = []
    while True:
        child = os.fork()
        if child == 0:
            evaluated(model, path)
            os._exit(0)
        time.sleep(took * rng.uniform(0.05, 0.5) * 1.2 ** len(kept))
        os.kill(child, signal.SIGKILL)
        if os.waitpid(child, 0)[1] == 0:
            return kept
        kept.append(len(Journal(path.with_suffix(".journal"))))


if __name__ == "__main__":
    main()
