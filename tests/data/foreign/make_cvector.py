"""Writes cvector-generator.gguf, by llama.cpp's own generator, and what `gguf` reads in it.

    python make_cvector.py GENERATOR      in an environment with gguf==0.19.0

GENERATOR is `llama-cvector-generator`, here of the llama.cpp that llama-cpp-python 0.3.36 brings
(tools/cvector-generator, linked with the libraries of its wheel). A small random Llama (5 blocks,
width 16), whose tokenizer knows a few words; the generator's `--method mean` on three pairs.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import gguf
import numpy as np

HERE = Path(__file__).parent
WORDS = ["a", "happy", "sad", "dog", "cat", "the", "is"]
TEXTS = "a {0} dog\nthe cat is {0}\na {0} cat\n"
WIDTH, INNER, BLOCKS = 16, 32, 5


def write_model(path: Path) -> None:
    words = [f"\u2581{word}" for word in WORDS] + list("abcdefghijklmnopqrstuvwxyz") + ["\u2581"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(WIDTH // 2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 259 + [-float(index) for index in range(len(words))])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(words))
    writer.add_vocab_size(len(tokens))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    rng = np.random.default_rng(0)
    square, up = (WIDTH, WIDTH), (INNER, WIDTH)
    shapes = {"attn_q": square, "attn_k": square, "attn_v": square, "attn_output": square}
    shapes |= {"ffn_gate": up, "ffn_up": up, "ffn_down": up[::-1]}
    named = {"token_embd": (len(tokens), WIDTH), "output": (len(tokens), WIDTH)}
    named |= {f"blk.{n}.{name}": shape for n in range(BLOCKS) for name, shape in shapes.items()}
    for name, shape in named.items():
        writer.add_tensor(f"{name}.weight", (0.2 * rng.normal(size=shape)).astype(np.float32))
    norms = [f"blk.{n}.{name}" for n in range(BLOCKS) for name in ("attn_norm", "ffn_norm")]
    for name in ["output_norm", *norms]:
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


with TemporaryDirectory() as folder:
    model = Path(folder) / "model.gguf"
    write_model(model)
    files = []
    for word in ("happy", "sad"):
        files.append(Path(folder) / f"{word}.txt")
        files[-1].write_text(TEXTS.format(word))
    out = HERE / "cvector-generator.gguf"
    options = ["--positive-file", files[0], "--negative-file", files[1], "--method", "mean"]
    subprocess.run([sys.argv[1], "-m", model, *options, "-o", out, "-t", "1"], check=True)

# direction.N is what was measured at the output of block N - 1.
rows = {int(t.name.split(".")[1]) - 1: t.data for t in gguf.GGUFReader(out).tensors}
np.savez(
    HERE / "expected-cvector.npz", **{f"{out.name}:{layer}": row for layer, row in rows.items()}
)
