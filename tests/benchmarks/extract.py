"""Seconds to make a vector, beside rivals and the bare forward.

    python tests/benchmarks/extract.py                       steer and the forward alone
    python tests/benchmarks/extract.py --setup DIR           makes the rivals' environment in DIR
    python tests/benchmarks/extract.py --rivals DIR          all of them

Three random Llamas of 24 million parameters, by how many of the multiplications are in the head:
a fifth, as in SmolLM2 or Llama 3.2 1B; half, as in DistilGPT2 or Pythia 70M; three quarters, as in
Pythia 31M, or in TinyStories models of 3 and 8 million parameters. steer does not run the head;
rivals do. The same 128 pairs of 45 tokens for all, the last token read at every layer. A rival runs
in the batches that were fastest for it in a first round. Runs alternate, each round gives ratios,
and their median is printed with its quartiles. CPU time on one thread, which a busy machine changes
little; with --threads wall time on so many, which needs a machine with nothing else to do. The
forward runs the same texts through the model's body in steer's batches, nothing shared, read or
fitted; importing and loading count for none.
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
from functools import partial
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
from transformers.utils import logging

from steer.hooks import record
from steer.hooks.packing import batches
from steer.models.loading import load
from steer.models.memory import token_budget
from steer.models.model import Model
from steer.models.source import ModelSource

PINNED = ["torch==2.13.0", "repeng==0.4.0", "steering-vectors==0.12.2"]
#: And the batches to try; what each has by default comes first.
RIVALS = {"repeng": [32, 8, 64], "steering-vectors": [1, 8, 32]}
N_PAIRS = 128
#: Vocabulary, width and layers, by the share of the head.
SHAPES = {
    "a fifth": (8_192, 512, 6),
    "half": (32_000, 384, 7),
    "three quarters": (50_304, 352, 4),
}
#: How many words of a text of 45 its pair has too, by kind of pairs.
KINDS = {
    "questions with two answers": 42,  # as anthropics/evals and CAA have them
    "two thirds in common": 30,
    "nothing in common": 0,
}

Pairs = list[tuple[str, str]]


def save_model(folder: Path, vocabulary: int, width: int, layers: int) -> None:
    """Random parameters, and a tokenizer of one token a word."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, vocabulary)}
    inner = Tokenizer(WordLevel(words, unk_token="<pad>"))
    inner.pre_tokenizer = WhitespaceSplit()
    inner.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)
    name_tokenizer_class(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=8,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def name_tokenizer_class(folder: Path) -> None:
    """Name the tokenizer's class as transformers 4 does, which the rivals install."""
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


def make_pairs(vocabulary: int, shared: int) -> Pairs:
    """Texts of 45 tokens on average, give or take five, `shared` of them the same in both."""
    rng = np.random.default_rng(0)

    def words(n: int) -> str:
        return " ".join(f"w{i}" for i in rng.integers(3, vocabulary, n))

    seconds = []
    for _ in range(N_PAIRS):
        more = int(rng.integers(-5, 6))
        prompt = words(shared + more) + " " if shared else ""
        own = 44 - shared + (0 if shared else more)
        seconds.append((prompt + words(own), prompt + words(own)))
    return seconds


def clock() -> float:
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def steer_seconds(model: Model, pairs: Pairs) -> float:
    record._tried.clear()
    start = clock()
    extract(model, contrasts(*pairs), positions="last")
    return clock() - start


def forward_seconds(model: Model, pairs: Pairs) -> float:
    texts = [model.encode(text) for pair in pairs for text in pair]
    readings = [
        model.padded([texts[index] for index in batch], left=False)
        for batch in batches([len(ids) for ids in texts], token_budget(model))
    ]
    start = clock()
    with torch.no_grad():
        for ids, mask in readings:
            model.body(input_ids=ids, attention_mask=mask, use_cache=False)
    return clock() - start


def rival_seconds(worker: subprocess.Popen[str], tool: str, batch: int, pairs: Pairs) -> float:
    assert worker.stdin and worker.stdout
    worker.stdin.write(json.dumps({"tool": tool, "batch": batch, "pairs": pairs}) + "\n")
    worker.stdin.flush()
    return float(json.loads(worker.stdout.readline())["seconds"])


def fastest(worker: subprocess.Popen[str], tool: str, pairs: Pairs) -> int:
    """The size of batches with which a rival takes the least time, on a quarter of the pairs."""
    return min(RIVALS[tool], key=lambda batch: rival_seconds(worker, tool, batch, pairs[::4]))


def table(title: str, runs: dict[str, Callable[[], float]], rounds: int, n_tokens: int) -> None:
    """A line for each of `runs`: seconds, tokens/s, and how many times as long as steer's."""
    took: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds):
        for name in list(runs)[:: 1 if turn % 2 else -1]:
            took[name].append(runs[name]())
    print(f"\n{title}, {n_tokens:,} tokens, {rounds} rounds")
    print(f"{'':<32}{'seconds':>8}{'tokens/s':>10}{'times steer':>14}")
    for name, seconds in took.items():
        ratios = [mine / own for mine, own in zip(seconds, took["steer"], strict=True)]
        low, middle, high = np.percentile(ratios, [25, 50, 75])
        each = statistics.median(seconds)
        print(f"{name:<32}{each:>8.2f}{n_tokens / each:>10,.0f}"
              f"{middle:>8.2f} [{low:.2f}, {high:.2f}]", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--setup", type=Path, metavar="DIR", help="make the rivals' environment")
    parser.add_argument("--rivals", type=Path, metavar="DIR", help="the environment to use")
    parser.add_argument("--head", choices=SHAPES, action="append", help="of these models")
    parser.add_argument("--kind", choices=KINDS, action="append", help="of these pairs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="wall time, where more than one")
    options = parser.parse_args()
    if options.setup:
        venv.create(options.setup, with_pip=True)
        subprocess.run([options.setup / "bin/python", "-m", "pip", "install", *PINNED], check=True)
        return
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    for head in options.head or SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            save_model(Path(folder), *SHAPES[head])
            model = load(ModelSource(folder, device="cpu"))
            worker = (
                start_rivals(options.rivals, Path(folder), options.threads)
                if options.rivals
                else None
            )
            for kind in options.kind or KINDS:
                pairs = make_pairs(SHAPES[head][0], KINDS[kind])
                compare(f"{head} in the head, {kind}", model, pairs, worker, options.rounds)
            if worker and worker.stdin:
                worker.stdin.close()
                worker.wait()


def compare(
    title: str, model: Model, pairs: Pairs, worker: subprocess.Popen[str] | None, rounds: int
) -> None:
    """The table of one model and one kind of pairs, after one run to warm up."""
    runs = {
        "steer": partial(steer_seconds, model, pairs),
        "forward alone": partial(forward_seconds, model, pairs),
    }
    for run in runs.values():
        run()
    for tool in RIVALS if worker else ():
        batch = fastest(worker, tool, pairs)
        name = f"{tool}, batches of {batch}"
        runs[name] = partial(rival_seconds, worker, tool, batch, pairs)
    n_tokens = sum(len(model.encode(text)) for pair in pairs for text in pair)
    table(title, runs, rounds, n_tokens)


if __name__ == "__main__":
    sys.exit(main())
