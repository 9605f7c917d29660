"""Tokens per second, steered over unsteered: `python tests/benchmarks/overhead.py [MODEL ...]`.

Runs of both kinds alternate in one process, and each pair gives a ratio, so a machine that slows
down slows both. Without arguments: pocket and a random Llama of 24 million parameters. $ROUNDS sets
how many pairs (15).
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[1]))
from recorded import extract, pairs
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from steer import pocket
from steer.contrasts.source import ModelSource
from steer.generate.apply import Sampling, generate
from steer.models.model import Model, load
from steer.steering.operation import Coefficient, Operation
from steer.steering.projection import Condition, Gate, Guard, Projection
from steer.steering.scope import Schedule, Scope
from steer.steering.steers import Steer
from steer.vectors.vector import SteeringVector

ROUNDS = int(os.environ.get("ROUNDS", "15"))
PROMPTS = ["One day Mara woke up."] * 8
#: Too small to change the text: both kinds of run then write the same number of tokens.
SMALL = Coefficient(1e-6)


@dataclass(frozen=True)
class Case:
    """What is measured, and which share of the unsteered speed it should have."""

    label: str
    target: float
    steers: tuple[Steer, ...] = ()
    watched: tuple[Projection, ...] = ()
    guards: tuple[Guard, ...] = ()
    streamed: bool = False


def cases(vector: SteeringVector) -> list[Case]:
    layers = vector.metadata.layers
    read = Projection(vector, layers[0])
    never = Guard(Condition(read, above=True, threshold=1e9))
    one, all_layers = (Steer(vector, SMALL, chosen) for chosen in ((layers[1],), layers))
    gated = [
        replace(one, gate=Gate(Condition(read, above=True, threshold=-1e9), pooling))
        for pooling in ("mean", "token")
    ]
    scheduled = replace(all_layers, scope=Scope("response"), schedule=Schedule("decay", 20))
    return [
        Case("one layer", 0.98, (one,)),
        Case("all layers", 0.97, (all_layers,)),
        Case("all layers, decaying", 0.97, (scheduled,)),
        Case("ablate, all layers", 0.95, (replace(all_layers, op=Operation("ablate")),)),
        Case("one layer, gate, watch, guard", 0.95, (gated[0],), (read,), (never,)),
        Case("the same, gate of tokens", 0.95, (gated[1],), (read,), (never,)),
        Case("one layer, streamed", 0.98, (one,), streamed=True),
    ]


def random_llama(folder: Path) -> Path:
    """24 million parameters, with the pocket model's tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8_192,
        hidden_size=512,
        intermediate_size=1_408,
        num_hidden_layers=6,
        num_attention_heads=8,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(pocket.path()).save_pretrained(folder)
    return folder


def seconds(model: Model, case: Case | None, prompts: Sequence[str], *, streamed: bool) -> float:
    """Of one run, per new token."""
    sampling = Sampling(max_tokens=48, temperature=1.0)
    on_text: Callable[[str], None] | None = (lambda piece: None) if streamed else None
    case = case or Case("unsteered", 1.0)
    start = time.perf_counter()
    made = generate(
        model,
        prompts,
        case.steers,
        sampling,
        watched=case.watched,
        guards=case.guards,
        on_text=on_text,
    )
    return (time.perf_counter() - start) / sum(generation.n_tokens for generation in made)


def ratios(model: Model, case: Case, prompts: Sequence[str]) -> list[float]:
    """Steered tokens/s over unsteered, a number for each round."""
    seconds(model, case, prompts, streamed=case.streamed)
    found = []
    for turn in range(ROUNDS):
        took = {}
        for steered in (True, False) if turn % 2 else (False, True):
            streamed = case.streamed and steered
            took[steered] = seconds(model, case if steered else None, prompts, streamed=streamed)
        found.append(took[False] / took[True])
    return found


def main() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    with tempfile.TemporaryDirectory() as folder:
        names = sys.argv[1:] or ["pocket", str(random_llama(Path(folder)))]
        print(f"{'model':<8} {'rows':>4}  {'what':<30} {'steered/unsteered tokens/s':>27}  target")
        for name in names:
            model = load(ModelSource(name))
            vector = extract(model, pairs(("Mara laughed.", "Mara wept.")))
            for prompts in (PROMPTS[:1], PROMPTS):
                for case in cases(vector):
                    if case.streamed and len(prompts) > 1:
                        continue
                    found = ratios(model, case, prompts)
                    low, high = np.percentile(found, [25, 75])
                    label = "random" if folder in name else name
                    middle = f"{statistics.median(found):.3f} [{low:.3f}, {high:.3f}]"
                    row = f"{label:<8} {len(prompts):>4}  {case.label:<30} {middle:>27}"
                    print(f"{row}  {case.target:.2f}", flush=True)


if __name__ == "__main__":
    main()
