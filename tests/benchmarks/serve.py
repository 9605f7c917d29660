"""`steer serve` under load, on loopback.

    python tests/benchmarks/serve.py [--requests 2000] [--at-once 16]

Clients at once ask for texts under mixed steers, whole and streamed; some leave, some send
nonsense. Each text is held against what `apply` writes alone. Then the speed of requests under
different steers, one after another and 8 at once, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))

import loading


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=16)
    options = parser.parse_args()
    known = loading.cases(96)
    with loading.serving() as server:
        loading.load_server(server, known, 50, options.at_once)  # what is loaded once
        report = loading.load_server(server, known, options.requests, options.at_once)
        rates = [
            (asyncio.run(loading.speed(server, 8, 1)), asyncio.run(loading.speed(server, 32, 8)))
            for _ in range(3)
        ]
    rate = sum(report.counts.values()) / report.wall
    print(f"{options.requests} requests, {options.at_once} at once: {rate:.1f} a second")
    print("| kind | requests | median s | 95 % | 99 % | most |\n|---|---|---|---|---|---|")
    for kind, seconds in sorted(report.seconds.items()):
        low, high, highest = np.percentile(seconds, [50, 95, 99])
        row = [
            kind,
            len(seconds),
            *(f"{second:.3f}" for second in (low, high, highest, max(seconds))),
        ]
        print("|", " | ".join(map(str, row)), "|")
    print("memory, MB:", *(f"{size / 1e6:.0f}" for size in report.memory))
    print(f"wrong: {len(report.wrong)}", *report.wrong[:5], sep="\n")
    for single, eight in rates:
        print(
            f"{single:.0f} tokens a second one by one, {eight:.0f} with 8 at once:"
            f" {eight / single:.1f}"
        )
    return bool(report.wrong)


if __name__ == "__main__":
    sys.exit(main())
