"""vLLM's tokens per second, steered over unsteered: `python tests/benchmarks/in_vllm.py [MODEL]`.

The unsteered one is vLLM as it comes, without our worker. Both run the same batch in turns, and
each pair of runs gives a ratio, so a machine that slows down slows both; of the processor's time
too, of the engine that runs. Without arguments: pocket and a random Llama of 24 million
parameters. $ROUNDS sets how many pairs (9), $N_TOKENS how long texts are (192); $EAGER=1 leaves out
the compiler.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.append(str(Path(__file__).parents[1]))
from overhead import random_llama
from recorded import extract, pairs

from steer.engines.vllm_engine import Engine, environment, running
from steer.models.loading import load
from steer.models.source import ModelSource
from steer.steering.generation import Row, Sampling
from steer.steering.operation import Coefficient, Operation
from steer.steering.steers import Steer
from steer.vectors.vector import SteeringVector

ROUNDS = int(os.environ.get("ROUNDS", "9"))
EAGER = bool(os.environ.get("EAGER"))
N_TOKENS = int(os.environ.get("N_TOKENS", "192"))
N_ROWS = (8, 32)
#: Too small to change the text, so that all runs read and write the same.
SMALL = Coefficient(1e-6)
OPTIONS: dict[str, Any] = {
    "enforce_eager": EAGER,
    "max_model_len": 256,
    "max_num_seqs": 32,
    "gpu_memory_utilization": 0.2,
}


@dataclass(frozen=True)
class Case:
    """The steers that an engine is prepared for, and those of each row of a batch, in turn."""

    label: str
    steerings: list[list[Steer]]


def cases(vector: SteeringVector) -> list[Case]:
    layers = vector.metadata.layers
    every = Steer(vector, SMALL, layers)
    adds = [
        [Steer(vector, SMALL, (layers[1],))],
        [every],
        [replace(every, coefficient=Coefficient(-1e-6))],
    ]
    ablate = replace(every, op=Operation("ablate"))
    cap = replace(every, op=Operation("cap", 1e9))
    return [
        Case("adds at all layers, three kinds at once", adds),
        Case("ablate and cap at all layers", [[ablate, cap]]),
    ]


def processes() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


@dataclass(frozen=True)
class Running:
    """An engine and its processes, whose CPU time alone counts: waiting engines poll."""

    engine: Engine
    own: set[psutil.Process]

    def measure(self, rows: list[Row], steerings: list[list[Steer]]) -> tuple[float, float]:
        """Seconds of one run per new token: by the clock, and of the processor."""
        sampling = Sampling(max_tokens=N_TOKENS, temperature=1.0)
        begun = [(row.ids, row.sample) for row in rows]
        clock, used = time.perf_counter(), self._spent()
        continuations = self.engine.continue_ids(begun, steerings, sampling)
        clock, used = time.perf_counter() - clock, self._spent() - used
        n = sum(map(len, continuations))
        return clock / n, used / n

    def _spent(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self.own if process.is_running())


def range_of(ratios: list[float]) -> str:
    low, high = np.percentile(ratios, [25, 75])
    return f"{statistics.median(ratios):.3f} [{low:.3f}, {high:.3f}]"


def compare(steered: Running, unsteered: Running, case: Case, ids: list[int], label: str) -> None:
    for n_rows in N_ROWS:
        rows = [Row("", index, ids) for index in range(n_rows)]
        row_steerings = [case.steerings[index % len(case.steerings)] for index in range(n_rows)]
        runs = [(steered, row_steerings), (unsteered, [[]] * n_rows)]
        for continued, steerings in runs:
            continued.measure(rows, steerings)
        clock, used, speed = [], [], []
        for turn in range(ROUNDS):
            order = runs if turn % 2 else runs[::-1]
            took = {case is steered: case.measure(rows, steerings) for case, steerings in order}
            clock.append(took[False][0] / took[True][0])
            used.append(took[False][1] / took[True][1])
            speed.append(1 / took[True][0])
        print(
            f"{label:<8} {n_rows:>3} rows  {case.label:<40} clock {range_of(clock)}"
            f"  processor {range_of(used)}  {statistics.median(speed):,.0f} tokens/s",
            flush=True,
        )


def main() -> None:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.update(environment())
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or ["pocket", str(random_llama(Path(folder)))]:
            source = ModelSource(name, device="cpu")
            model = load(source)
            vector = extract(model, pairs(("Mara laughed.", "Mara wept.")))
            ids = model.encode("One day Mara woke up.")
            model.network.to("meta")
            import vllm

            before = processes()
            plain = vllm.LLM(model=source.location, dtype="float32", **OPTIONS)
            unsteered = Running(Engine(plain, {}), processes() - before)
            for case in cases(vector):
                before = processes()
                with running(source, case.steerings, **OPTIONS) as engine:
                    steered = Running(engine, processes() - before)
                    label = "random" if folder in name else Path(name).name
                    compare(steered, unsteered, case, ids, label)
            plain.llm_engine.engine_core.shutdown()


if __name__ == "__main__":
    main()
