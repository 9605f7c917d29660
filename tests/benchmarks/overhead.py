"""Tokens per second, steered over unsteered.

    python tests/benchmarks/overhead.py [MODEL ...]          steer; pocket and a random Llama
    python tests/benchmarks/overhead.py --rivals DIR         beside rivals; extract.py makes DIR

Runs of both kinds alternate in one process, and each pair gives a ratio. Time is that of one CPU
thread, so a busy machine disturbs little. The Llama has 24 million parameters. The rivals run in
a process of their own, on the version of transformers that they take; their pairs alternate with
ours, and are held against their own unsteered speed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from extract import name_tokenizer_class, start_rivals
from recorded import extract, pairs
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from steer import pocket
from steer.generate.apply import Sampling, generate
from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource
from steer.steering.operation import Coefficient, Operation
from steer.steering.projection import Gate, Guard, Projection, Threshold
from steer.steering.scope import Schedule, Scope
from steer.steering.steers import Steer
from steer.vectors.vector import SteeringVector

N_TOKENS = 48
PROMPTS = ["One day Mara woke up."] * 8
#: Too small to change the text: both kinds of run then write the same number of tokens.
SMALL = Coefficient(1e-6)


@dataclass(frozen=True)
class Case:
    """What is measured, and which share of the unsteered speed it should have. What is streamed is
    held against the same that is not."""

    label: str
    target: float | None
    steers: tuple[Steer, ...] = ()
    watched: tuple[Projection, ...] = ()
    guards: tuple[Guard, ...] = ()
    streamed: bool = False


def cases(vector: SteeringVector) -> list[Case]:
    layers = vector.metadata.layers
    read = Projection(vector, layers[0])
    never = Guard(Threshold(read, above=True, value=1e9))
    single, all_layers = (Steer(vector, SMALL, chosen) for chosen in ((layers[1],), layers))
    gated = [
        replace(single, gate=Gate(Threshold(read, above=True, value=-1e9), pooling))
        for pooling in ("mean", "token")
    ]
    scheduled = replace(all_layers, scope=Scope("response"), schedule=Schedule("decay", 20))
    return [
        Case("one layer", 0.98, (single,)),
        Case("all layers", 0.97, (all_layers,)),
        Case("all layers, decaying", None, (scheduled,)),
        Case("ablate, all layers", None, (replace(all_layers, op=Operation("ablate")),)),
        Case("one layer, gate, watch, guard", 0.95, (gated[0],), (read,), (never,)),
        Case("the same, gate of tokens", 0.95, (gated[1],), (read,), (never,)),
        Case("streamed over not streamed", 0.98, (single,), streamed=True),
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


def seconds(model: Model, case: Case, prompts: Sequence[str]) -> float:
    """Of one run, per new token."""
    sampling = Sampling(max_tokens=N_TOKENS, temperature=1.0)
    on_text: Callable[[str], None] | None = (lambda piece: None) if case.streamed else None
    start = time.process_time()
    generations = list(
        generate(
            model,
            prompts,
            case.steers,
            sampling,
            watched=case.watched,
            guards=case.guards,
            on_text=on_text,
        )
    )
    return (time.process_time() - start) / sum(generation.n_tokens for generation in generations)


def ratio(model: Model, case: Case, prompts: Sequence[str], *, first: bool) -> float:
    """Steered tokens/s over unsteered, of one pair of runs."""
    took = {}
    beside = replace(case, streamed=False) if case.streamed else Case("unsteered", None)
    for steered in (True, False) if first else (False, True):
        took[steered] = seconds(model, case if steered else beside, prompts)
    return took[False] / took[True]


def rival_ratio(
    worker: subprocess.Popen[str], tool: str, job: dict[str, object], *, first: bool
) -> float:
    assert worker.stdin and worker.stdout
    worker.stdin.write(json.dumps({**job, "tool": tool, "first": first}) + "\n")
    worker.stdin.flush()
    took = json.loads(worker.stdout.readline())
    return float(took["unsteered"] / took["steered"])


def runs(
    model: Model, case: Case, prompts: Sequence[str], worker: subprocess.Popen[str] | None
) -> dict[str, Callable[[bool], float]]:
    """What is measured side by side, by its name; each gives a ratio."""
    runs: dict[str, Callable[[bool], float]] = {
        "steer": lambda first: ratio(model, case, prompts, first=first)
    }
    if worker is None or case.label not in ("one layer", "all layers"):
        return runs
    (steer,) = case.steers
    directions = {layer: steer.delta(layer).tolist() for layer in steer.layers}
    ids = [model.encode(prompt) for prompt in prompts]
    job: dict[str, object] = {"ids": ids, "directions": directions, "tokens": N_TOKENS}
    for tool in ("repeng", "steering-vectors"):
        runs[tool] = lambda first, tool=tool: rival_ratio(worker, tool, job, first=first)  # type: ignore[misc]
    return runs


def table(folder: Path, label: str, rounds: int, rivals: Path | None) -> None:
    model = load(ModelSource(str(folder), device="cpu"))
    worker = start_rivals(rivals, folder, 1) if rivals else None
    vector = extract(model, pairs(("Mara laughed.", "Mara wept.")))
    for prompts in (PROMPTS[:1], PROMPTS):
        for case in cases(vector):
            if case.streamed and len(prompts) > 1:
                continue
            measured = runs(model, case, prompts, worker)
            ratios: dict[str, list[float]] = {name: [] for name in measured}
            for turn in range(-1, rounds):
                for name in list(measured)[:: 1 if turn % 2 else -1]:
                    share = measured[name](turn % 2 == 0)
                    if turn >= 0:  # the first warms up
                        ratios[name].append(share)
            for name, shares in ratios.items():
                low, middle, high = np.percentile(shares, [25, 50, 75])
                row = f"{label:<8} {len(prompts):>4}  {case.label:<29} {name:<16}"
                target = f"{case.target:.2f}" if name == "steer" and case.target else ""
                print(f"{row} {middle:.3f} [{low:.3f}, {high:.3f}]  {target}".rstrip(), flush=True)
    if worker and worker.stdin:
        worker.stdin.close()
        worker.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(".")[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help="a folder, or pocket, or random")
    parser.add_argument("--rivals", type=Path, metavar="DIR", help="their environment")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'model':<8} {'rows':>4}  {'what':<29} {'':<16} steered/unsteered     target")
    for name in options.models or ["pocket", "random"]:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            if name == "random":
                random_llama(folder)
            else:
                source = pocket.path() if name == "pocket" else Path(name)
                shutil.copytree(source, folder, dirs_exist_ok=True)
            name_tokenizer_class(folder)
            table(folder, name[:8], options.rounds, options.rivals)


if __name__ == "__main__":
    main()
