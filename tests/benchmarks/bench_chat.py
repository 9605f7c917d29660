"""Speed on a real chat model: `bench_chat.py MODEL [--rivals DIR] [--saklas DIR]`.

    first token     of a chat prompt, steered at all layers, over transformers' own `generate`
    steered         tokens per second at all layers, over unsteered, one row and 32
    extract         64 chat pairs, over a forward of the model's body on each of the same texts
    vector          seconds of CPU of `steer extract` from 64 pairs, loading included

CPU time on one thread; runs alternate, and the middle of the ratios is shown with its quartiles.
With --rivals, repeng and steering-vectors in an environment of their own (`extract.py --setup DIR`)
do the same with the same texts in float32. With --saklas, an environment with saklas, both make a
vector from two words, with their defaults.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from extract import fastest, forward_seconds, rival_seconds, start_rivals
from overhead import SMALL, rival_ratio
from recorded import extract, pairs

from steer.generate.apply import Sampling, generate
from steer.models.loading import load
from steer.models.model import Model
from steer.models.source import ModelSource
from steer.steering.steers import Steer

EXAMPLES = Path(__file__).parents[2] / "examples/chat"
QUESTIONS = ["How do I bake bread?", "Why is the sky blue?", "Tell me about the moon."]
N_TOKENS = 32


def cpu(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def print_ratios(name: str, target: str, ratios: list[float]) -> None:
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    print(f"{name:<44} {middle:.3f} [{low:.3f}, {high:.3f}]  {target}", flush=True)


def alternating(first: Callable[[], float], other: Callable[[], float], rounds: int) -> list[float]:
    """`first` over `other`, of one pair of runs after another; the first pair warms up."""
    ratios = []
    for turn in range(-1, rounds):
        if turn % 2:
            forward, two = first(), other()
        else:
            two, forward = other(), first()
        ratios += [forward / two] if turn >= 0 else []
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--rivals", type=Path, metavar="DIR", help="their environment")
    parser.add_argument("--saklas", type=Path, metavar="DIR", help="its environment")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "pairs.jsonl"
        lines = [(EXAMPLES / f"{trait}.jsonl").read_text() for trait in ("pirate", "cheerful")]
        file.write_text("".join(lines))
        own = [sys.executable, "-m", "steer", "extract", "-m", args.model]
        pairs_only = [*own, str(file), "--chat", "--no-calibrate"]
        spent = spent_by([*pairs_only, "-o", f"{scratch}/both.safetensors"], scratch)
        print(f"vector from 64 pairs, loading included       {spent:.1f} s of CPU  20", flush=True)
        measure(args, [json.loads(line) for line in file.read_text().splitlines()])
        if args.saklas:
            words = [*own, "patient", "impatient", "-o", f"{scratch}/words.safetensors"]
            rival = [f"{args.saklas}/bin/saklas", "manifold", "extract", "-m", args.model]
            rival += ["patient", "impatient"]
            ours, theirs = (spent_by(command, scratch) for command in (words, rival))
            print(f"vector from two words, loading included      {ours:.0f} s of CPU", end="")
            print(f", saklas {theirs:.0f}")


def spent_by(command: list[str], home: str) -> float:
    """Seconds of CPU that a command takes, on one thread, with a home folder of its own."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    settings = {"HOME": home, "XDG_CACHE_HOME": home, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **settings})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(args: argparse.Namespace, rows: list[dict[str, str]]) -> None:
    model = load(ModelSource(args.model, device="cpu", dtype=args.dtype))
    sides = [
        tuple(f"{model.chat(row['prompt'])}{row[side]}" for side in ("positive", "negative"))
        for row in rows
    ]
    texts = [(first, second) for first, second in sides]
    contrasts = pairs(*texts)
    vector = extract(model, contrasts)
    few = alternating(
        lambda: forward_seconds(model, texts), lambda: cpu(lambda: extract(model, contrasts)), 3
    )
    print_ratios("extract: forward alone over steer", ">= 0.95", few)
    steer = Steer(vector, SMALL, vector.metadata.layers)
    prompts = [model.chat(question) for question in QUESTIONS]
    first_token(model, steer, prompts, args.rounds)
    for n_rows in (1, 32):
        batch = [prompts[index % len(prompts)] for index in range(n_rows)]
        few = alternating(
            lambda batch=batch: written(model, batch, ()),  # type: ignore[misc]
            lambda batch=batch: written(model, batch, (steer,)),  # type: ignore[misc]
            args.rounds if n_rows == 1 else 3,
        )
        print_ratios(f"steered over unsteered, {n_rows} rows", ">= 0.98", few)
    if args.rivals:
        beside(args, model, steer, texts, prompts)


def written(model: Model, prompts: list[str], steers: tuple[Steer, ...]) -> float:
    """Seconds of CPU for each new token."""
    sampling = Sampling(max_tokens=N_TOKENS, temperature=1.0, batch_size=len(prompts))
    start = time.process_time()
    generations = list(generate(model, prompts, steers, sampling, special=False))
    return (time.process_time() - start) / sum(generation.n_tokens for generation in generations)


def first_token(model: Model, steer: Steer, prompts: list[str], rounds: int) -> None:
    ids = [torch.tensor([model.encode(prompt, special=False)]) for prompt in prompts]
    one_token = Sampling(max_tokens=1, temperature=0.0)

    def theirs() -> None:
        for row in ids:
            with torch.no_grad():
                model.network.generate(
                    row, attention_mask=torch.ones_like(row), max_new_tokens=1, do_sample=False
                )

    def ours(*steers: Steer) -> None:
        for prompt in prompts:
            list(generate(model, [prompt], steers, one_token, special=False))

    for name, steers in (("steered", (steer,)), ("unsteered", ())):
        ratios = alternating(lambda s=steers: cpu(lambda: ours(*s)), lambda: cpu(theirs), rounds)  # type: ignore[misc]
        print_ratios(f"first token, {name} over transformers", "<= 1.1", ratios)


def beside(
    args: argparse.Namespace,
    model: Model,
    steer: Steer,
    texts: list[tuple[str, str]],
    prompts: list[str],
) -> None:
    """What rivals take for the same, in float32; steer's own extraction in float32 beside them."""
    worker = start_rivals(args.rivals, Path(args.model), 1)
    ours = load(ModelSource(args.model, device="cpu", dtype="float32"))
    contrasts = pairs(*texts)
    directions = {layer: steer.delta(layer).tolist() for layer in steer.layers}
    ids = [model.encode(prompt, special=False) for prompt in prompts[:1]]
    job: dict[str, object] = {"ids": ids, "directions": directions, "tokens": N_TOKENS}
    for tool in ("repeng", "steering-vectors"):
        batch = fastest(worker, tool, texts)
        ratios = alternating(
            lambda tool=tool, batch=batch: rival_seconds(worker, tool, batch, texts),  # type: ignore[misc]
            lambda: cpu(lambda: extract(ours, contrasts)),
            2,
        )
        print_ratios(f"extract: {tool} over steer, float32", "", ratios)
        shares = [rival_ratio(worker, tool, job, first=bool(turn % 2)) for turn in range(5)]
        print_ratios(f"steered over unsteered, 1 row: {tool}", "", shares[1:])


if __name__ == "__main__":
    main()
