"""Seconds to make a vector, beside rivals and the bare forward.

    python tests/benchmarks/extract.py                       steer and the forward alone
    python tests/benchmarks/extract.py --setup DIR           makes the rivals' environment in DIR
    python tests/benchmarks/extract.py --rivals DIR          all of them

One random Llama of 24 million parameters, the same 256 pairs of 45 tokens for all, the last token
read at every layer. Runs alternate, each round gives ratios, and their median is printed with its
quartiles. The forward runs the same texts through the model's body in steer's batches, nothing
shared, read or fitted; importing and loading count for none.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[1]))
from recorded import extract
from recorded import pairs as contrasts
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from steer.contrasts.source import ModelSource
from steer.hooks import record
from steer.hooks.packing import batches
from steer.models.memory import token_budget
from steer.models.model import Model, load

PINNED = ["torch==2.13.0", "repeng==0.4.0", "steering-vectors==0.12.2"]
RIVALS = [("repeng", 8), ("repeng", 32), ("repeng", 64), ("steering-vectors", 1),
          ("steering-vectors", 32)]  # fmt: skip
VOCABULARY = 8_192
N_PAIRS = 256

Pairs = list[tuple[str, str]]


def save_model(folder: Path) -> None:
    """24 million random parameters, and a tokenizer of one token a word."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    inner = Tokenizer(WordLevel(words, unk_token="<pad>"))
    inner.pre_tokenizer = WhitespaceSplit()
    inner.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)
    name_tokenizer_class(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1_408,
        num_hidden_layers=6,
        num_attention_heads=8,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def name_tokenizer_class(folder: Path) -> None:
    """Call the tokenizer what transformers 4, which the rivals bring, knows its class by."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(config))


def start_rivals(place: Path, folder: Path, threads: int) -> subprocess.Popen[str]:
    """The rivals' own process, in the environment at `place`, with the model in `folder` loaded."""
    script = Path(__file__).with_name("rivals.py")
    worker = subprocess.Popen(
        [place / "bin/python", script, folder, str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout and worker.stdout.readline() == "ready\n"
    return worker


def make_pairs(*, common: bool) -> Pairs:
    """Texts of 45 tokens on average; two thirds of each the same in both, or nothing."""
    rng = np.random.default_rng(0)

    def words(n: int) -> list[str]:
        return [f"w{i}" for i in rng.integers(3, VOCABULARY, n)]

    made = []
    for _ in range(N_PAIRS):
        prompt = words(rng.integers(24, 36)) if common else []
        rest = (10, 20) if common else (34, 56)
        sides = [" ".join(prompt + words(rng.integers(*rest))) for _ in range(2)]
        made.append((sides[0], sides[1]))
    return made


def steer_seconds(model: Model, pairs: Pairs) -> float:
    record._tried.clear()
    start = time.perf_counter()
    extract(model, contrasts(*pairs), positions="last")
    return time.perf_counter() - start


def forward_seconds(model: Model, pairs: Pairs) -> float:
    texts = [model.encode(text) for pair in pairs for text in pair]
    made = [
        model.padded([texts[index] for index in batch], left=False)
        for batch in batches([len(ids) for ids in texts], token_budget(model))
    ]
    start = time.perf_counter()
    with torch.no_grad():
        for ids, mask in made:
            model.body(input_ids=ids, attention_mask=mask, use_cache=False)
    return time.perf_counter() - start


def rival_seconds(worker: subprocess.Popen[str], tool: str, batch: int, pairs: Pairs) -> float:
    assert worker.stdin and worker.stdout
    worker.stdin.write(json.dumps({"tool": tool, "batch": batch, "pairs": pairs}) + "\n")
    worker.stdin.flush()
    return float(json.loads(worker.stdout.readline())["seconds"])


def table(title: str, runs: dict[str, Callable[[], float]], rounds: int, n_tokens: int) -> None:
    """A line for each of `runs`: seconds, tokens/s, and how many times as long as steer's."""
    took: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(-1, rounds):
        for name in list(runs)[:: 1 if turn % 2 else -1]:
            seconds = runs[name]()
            if turn >= 0:  # the first warms up
                took[name].append(seconds)
    print(f"\n{title}, {n_tokens:,} tokens, {rounds} rounds")
    print(f"{'':<24}{'seconds':>8}{'tokens/s':>10}{'times steer':>14}")
    for name, seconds in took.items():
        ratios = [mine / own for mine, own in zip(seconds, took["steer"], strict=True)]
        low, middle, high = np.percentile(ratios, [25, 50, 75])
        each = statistics.median(seconds)
        print(f"{name:<24}{each:>8.2f}{n_tokens / each:>10,.0f}"
              f"{middle:>8.2f} [{low:.2f}, {high:.2f}]", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--setup", type=Path, metavar="DIR", help="make the rivals' environment")
    parser.add_argument("--rivals", type=Path, metavar="DIR", help="the environment to use")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.setup:
        venv.create(options.setup, with_pip=True)
        subprocess.run([options.setup / "bin/python", "-m", "pip", "install", *PINNED], check=True)
        return
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder))
        model = load(ModelSource(folder, device="cpu"))
        worker = None
        if options.rivals:
            worker = start_rivals(options.rivals, Path(folder), options.threads)
        for title, common in (("a prefix in common", True), ("nothing in common", False)):
            pairs = make_pairs(common=common)
            runs = {
                "steer": lambda pairs=pairs: steer_seconds(model, pairs),
                "forward alone": lambda pairs=pairs: forward_seconds(model, pairs),
            }
            for tool, batch in RIVALS if worker else []:
                runs[f"{tool}, batches of {batch}"] = lambda tool=tool, batch=batch, pairs=pairs: (
                    rival_seconds(worker, tool, batch, pairs)
                )
            n_tokens = sum(len(model.encode(text)) for pair in pairs for text in pair)
            table(f"{N_PAIRS} pairs, {title}", runs, options.rounds, n_tokens)
        if worker and worker.stdin:
            worker.stdin.close()
            worker.wait()


if __name__ == "__main__":
    sys.exit(main())
