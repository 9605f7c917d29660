"""vLLM's tokens per second, steered over unsteered: `python tests/benchmarks/in_vllm.py [MODEL]`.

The unsteered one is vLLM as it comes, without our worker. Both run the same batch in turns, and
each pair of runs gives a ratio, so a machine that slows down slows both; of the processor's time
too, which a busy machine changes least. Without arguments: pocket and a random Llama of 24 million
parameters. $ROUNDS sets how many pairs (9), $EAGER=1 leaves out the compiler.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.append(str(Path(__file__).parents[1]))
from overhead import random_llama
from recorded import extract, pairs

from steer.contrasts.source import ModelSource
from steer.engines.vllm_engine import Engine, environment, running
from steer.models.model import load
from steer.steering.generation import Row, Sampling
from steer.steering.operation import Coefficient, Operation
from steer.steering.steers import Steer
from steer.vectors.vector import SteeringVector

ROUNDS = int(os.environ.get("ROUNDS", "9"))
EAGER = bool(os.environ.get("EAGER"))
N_TOKENS = 192
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
    """What an engine is ready for, and what each row of a batch asks of it, in turn."""

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


def spent() -> float:
    """Seconds of the processor that this process and its engines have used."""
    me = psutil.Process()
    every = [me, *me.children(recursive=True)]
    return sum(sum(one.cpu_times()[:2]) for one in every)


def measure(engine: Engine, rows: list[Row], steerings: list[list[Steer]]) -> tuple[float, float]:
    """Seconds of one run: by the clock, and of the processor."""
    sampling = Sampling(max_tokens=N_TOKENS, temperature=1.0)
    clock, used = time.perf_counter(), spent()
    made = engine.continue_ids([(row.ids, row.sample) for row in rows], steerings, sampling)
    clock, used = time.perf_counter() - clock, spent() - used
    n = sum(map(len, made))
    return clock / n, used / n


def told(ratios: list[float]) -> str:
    low, high = np.percentile(ratios, [25, 75])
    return f"{statistics.median(ratios):.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.update(environment())
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or ["pocket", str(random_llama(Path(folder)))]:
            label = "random" if folder in name else name
            source = ModelSource(name, device="cpu")
            model = load(source)
            vector = extract(model, pairs(("Mara laughed.", "Mara wept.")))
            ids = model.encode("One day Mara woke up.")
            model.network.to("meta")
            import vllm

            plain = vllm.LLM(model=source.location, dtype="float32", **OPTIONS)
            unsteered = Engine(plain, {})
            for case in cases(vector):
                with ExitStack() as stack:
                    steered = stack.enter_context(running(source, case.steerings, **OPTIONS))
                    for n_rows in (8, 32):
                        rows = [Row("", index, ids) for index in range(n_rows)]
                        asked = [case.steerings[i % len(case.steerings)] for i in range(n_rows)]
                        runs = [(steered, asked), (unsteered, [[]] * n_rows)]
                        for engine, steerings in runs:
                            measure(engine, rows, steerings)
                        clock, used, speed = [], [], []
                        for turn in range(ROUNDS):
                            order = runs if turn % 2 else runs[::-1]
                            took = {
                                one[0] is steered: measure(one[0], rows, one[1]) for one in order
                            }
                            clock.append(took[False][0] / took[True][0])
                            used.append(took[False][1] / took[True][1])
                            speed.append(1 / took[True][0])
                        print(
                            f"{label:<8} {n_rows:>3} rows  {case.label:<40} clock {told(clock)}"
                            f"  processor {told(used)}  {statistics.median(speed):,.0f} tokens/s",
                            flush=True,
                        )
            plain.llm_engine.engine_core.shutdown()


if __name__ == "__main__":
    main()
