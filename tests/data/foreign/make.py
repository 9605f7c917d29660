"""Writes the files of this folder, by the tools themselves: repeng 0.4.0, dialz and torch.

    python make.py          in an environment with repeng==0.4.0, dialz==1.1.4,
                            transformers==4.57.6, torch and safetensors

A small random Llama (4 blocks, width 16), a vector fitted by each tool on the same eight pairs,
and in expected.npz the numbers as the tool has them in memory, by `file:layer`.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import dialz
import numpy as np
import torch
from dialz.dataset import Dataset
from repeng import ControlModel, ControlVector, DatasetEntry
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
PAIRS = [(f"a w{n} happy", f"a w{n} sad") for n in range(8)]


def model(folder: str) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    words = ["<pad>", "<s>", "</s>", "a", "happy", "sad", *(f"w{n}" for n in range(10))]
    inner = Tokenizer(WordLevel({word: n for n, word in enumerate(words)}, unk_token="<pad>"))
    inner.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4}
    config = LlamaConfig(vocab_size=len(words), num_attention_heads=2, **sizes)
    network = LlamaForCausalLM(config)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return network, tokenizer


expected: dict[str, np.ndarray] = {}


def keep(file: str, rows: dict[int, object]) -> None:
    expected.update({f"{file}:{layer}": np.asarray(row, np.float32) for layer, row in rows.items()})


with TemporaryDirectory() as folder:
    network, tokenizer = model(folder)
    wrapped = ControlModel(network, [1, 2, 3])
    entries = [DatasetEntry(positive, negative) for positive, negative in PAIRS]
    vector = ControlVector.train(wrapped, tokenizer, entries)
    vector.export_gguf(HERE / "repeng.gguf")
    keep("repeng.gguf", vector.directions)

    dataset = Dataset()
    for positive, negative in PAIRS:
        dataset.add_entry(positive, negative)
    steering = dialz.SteeringModel(folder, [1, 2, 3])
    dialzs = dialz.SteeringVector.train(steering, dataset, method="mean_diff")
    dialzs.export_gguf(HERE / "dialz.gguf")
    keep("dialz.gguf", dialzs.directions)

rng = torch.Generator().manual_seed(0)
numbers = torch.randn(5, 16, generator=rng)
# As their scripts write them: torch.save of a tensor, or of a view, in float64.
torch.save(numbers[3], HERE / "vec_layer_3.pt")
keep("vec_layer_3.pt", {3: numbers[3]})
torch.save(numbers.double()[2], HERE / "direction.pt")
(HERE / "direction_metadata.json").write_text(json.dumps({"pos": -2, "layer": 2}))
keep("direction.pt", {1: numbers[2]})
torch.save(numbers, HERE / "kind_response_avg_diff.pt")
keep("kind_response_avg_diff.pt", {n: numbers[n + 1] for n in range(4)})
save_file(
    {f"layer{n}.v": numbers[n].clone() for n in (1, 2)},
    HERE / "steering-lite.safetensors",
    metadata={"cfg": json.dumps({"method": "mean_diff", "layers": [1, 2], "coeff": 2.5})},
)
keep("steering-lite.safetensors", {n: numbers[n] for n in (1, 2)})
np.savez(HERE / "expected.npz", **expected)
