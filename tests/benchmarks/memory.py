"""Peak memory of `steer extract` with few pairs and with many.

    python tests/benchmarks/memory.py                        200 and 20,000 pairs
    python tests/benchmarks/memory.py --model DIR --pairs 200 2000

The command runs as a user runs it, on the pocket model unless another is named, without and with
--keep; the operating system says how much memory each run held at most. The model is the same in
all of them, so what differs is what the pairs take.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

#: Of each side of a pair: about 45 words, two thirds of them in both.
SHARED, OWN = (24, 36), (10, 20)


def write_pairs(path: Path, n: int) -> None:
    """Pairs of random words, every one different."""
    rng = np.random.default_rng(0)
    examples = Path(__file__).parents[2] / "examples/contrasts/joyful.jsonl"
    words = sorted(set(json.loads(examples.read_text().split("\n")[0])["positive"].split()))

    def text(between: tuple[int, int]) -> str:
        return " ".join(rng.choice(words, rng.integers(*between)))

    with path.open("w") as file:
        for _ in range(n):
            pair = {"prompt": text(SHARED) + " ", "positive": text(OWN), "negative": text(OWN)}
            file.write(json.dumps(pair) + "\n")


def peak(command: list[str]) -> tuple[float, float]:
    """The most memory that a command held, in MB, and the seconds it took.

    Raises:
        SystemExit: it failed.
    """
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    # Linux counts in kilobytes, macOS in bytes.
    unit = 1e6 if sys.platform == "darwin" else 1e6 / 1024
    return usage.ru_maxrss / unit, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--pairs", type=int, nargs="+", default=[200, 20_000])
    options = parser.parse_args()
    print(f"{'':<24}{'MB at most':>12}{'more':>8}{'seconds':>10}")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for kept in (False, True):
            first = None
            for n in options.pairs:
                write_pairs(place / "pairs.jsonl", n)
                command = [sys.executable, "-m", "steer", "extract", str(place / "pairs.jsonl")]
                command += ["-m", options.model, "-o", str(place / "v.safetensors"), "--force"]
                command += ["--keep", str(place / "acts.safetensors")] if kept else []
                held, seconds = peak(command)
                first = held if first is None else first
                label = f"{n:,} pairs{', kept' if kept else ''}"
                print(f"{label:<24}{held:>12.0f}{held - first:>+8.0f}{seconds:>10.1f}", flush=True)


if __name__ == "__main__":
    main()
