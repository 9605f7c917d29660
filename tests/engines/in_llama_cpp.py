"""Run by the Python that has llama-cpp-python: a Llama as GGUF, and log-probs under vectors.

    python in_llama_cpp.py FOLDER

FOLDER holds config.json and weights.npz of a Hugging Face Llama, tokens.json, and vectors.json:
control vectors as GGUF files, or null. Logits go to logits.npy, [vector, token, vocabulary].
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def interleaved(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows in the order of llama.cpp's rotary embedding, which pairs neighbours."""
    halves = weight.reshape(n_heads, 2, -1, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write_model(folder: Path, config: dict, weights: dict[str, np.ndarray]) -> Path:
    path = folder / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config["vocab_size"])
    heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
    for name, weight in weights.items():
        if name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            rest, _, kind = rest.rpartition(".")  # a weight, or a bias, as `steer bake` adds
            if rest[-6:] == "q_proj" or rest[-6:] == "k_proj":
                weight = interleaved(weight, heads[rest[-6]])
            writer.add_tensor(f"blk.{layer}.{NAMES[rest]}.{kind}", weight)
        else:
            ours = {"model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm"}
            writer.add_tensor(f"{ours.get(name, 'output')}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def control_vector(path: str, n_layers: int, width: int) -> np.ndarray:
    """The buffer that llama.cpp's `common_control_vector_load` makes: row i for block i + 1."""
    buffer = np.zeros((n_layers - 1, width), np.float32)
    for tensor in gguf.GGUFReader(path).tensors:
        word, _, number = tensor.name.partition(".")
        assert word == "direction" and int(number) >= 1
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32 and len(tensor.shape) == 1
        buffer[int(number) - 1] += tensor.data
    return buffer


def main(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    tokens = json.loads((folder / "tokens.json").read_text())
    with np.load(folder / "weights.npz") as weights:
        path = write_model(folder, config, dict(weights))
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(
        str(path).encode(), llama_cpp.llama_model_default_params()
    )
    assert model
    readings = []
    for vector in json.loads((folder / "vectors.json").read_text()):
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_threads, settings.n_threads_batch = 64, 1, 1
        settings.type_k = settings.type_v = llama_cpp.GGML_TYPE_F32
        settings.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        context = llama_cpp.llama_init_from_model(model, settings)
        assert context
        if vector is not None:
            n_layers, width = config["num_hidden_layers"], config["hidden_size"]
            buffer = control_vector(vector, n_layers, width)
            pointer = buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            assert not llama_cpp.llama_set_adapter_cvec(
                context, pointer, buffer.size, width, 1, n_layers
            )
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens):
            batch.token[index], batch.pos[index] = token, index
            batch.n_seq_id[index], batch.seq_id[index][0], batch.logits[index] = 1, 0, 1
        assert not llama_cpp.llama_decode(context, batch)
        size = len(tokens) * config["vocab_size"]
        logits = llama_cpp.llama_get_logits(context)
        flat = np.ctypeslib.as_array(logits, shape=(size,)).copy()
        readings.append(flat.reshape(len(tokens), -1))
        llama_cpp.llama_free(context)
    np.save(folder / "logits.npy", np.stack(readings))


main(Path(sys.argv[1]))
