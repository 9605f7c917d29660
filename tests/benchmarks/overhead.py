"""Tokens per second, steered over unsteered: `python tests/benchmarks/overhead.py [MODEL ...]`.

Runs of both kinds alternate in one process, and each pair gives a ratio, so a machine that slows
down slows both. The vector acts at every layer. Without arguments: pocket and a random Llama of 24
million parameters.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[1]))
from recorded import extract, pairs
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from steer import pocket
from steer.apply import Sampling, generate
from steer.model import Model, load
from steer.source import ModelSource
from steer.spec import Coefficient
from steer.steers import Steer

ROUNDS = 15
PROMPTS = ["One day Mara woke up."] * 8


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


def seconds(model: Model, steers: Sequence[Steer], prompts: Sequence[str]) -> float:
    sampling = Sampling(max_tokens=48, temperature=1.0)
    start = time.perf_counter()
    made = generate(model, prompts, steers, sampling)
    return (time.perf_counter() - start) / sum(generation.n_tokens for generation in made)


def ratios(model: Model, prompts: Sequence[str]) -> list[float]:
    """Steered tokens/s over unsteered, a number for each round."""
    vector = extract(model, pairs(("Mara laughed.", "Mara wept.")))
    # Too small to change the text: both kinds of run then write the same number of tokens.
    steers = [Steer(vector, Coefficient(1e-6), vector.metadata.layers)]
    seconds(model, steers, prompts)
    found = []
    for turn in range(ROUNDS):
        order = ([], steers) if turn % 2 else (steers, [])
        took = {bool(kind): seconds(model, kind, prompts) for kind in order}
        found.append(took[False] / took[True])
    return found


def main() -> None:
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        names = sys.argv[1:] or ["pocket", str(random_llama(Path(folder)))]
        print(f"{'model':<10} {'rows':>4} {'steered/unsteered tokens/s':>28}")
        for name in names:
            model = load(ModelSource(name))
            for prompts in (PROMPTS[:1], PROMPTS):
                found = ratios(model, prompts)
                low, high = np.percentile(found, [25, 75])
                label = "random" if folder in name else name
                middle = statistics.median(found)
                print(f"{label:<10} {len(prompts):>4} {middle:>14.3f} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
