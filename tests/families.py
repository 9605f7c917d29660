"""Tiny random models of many families, for tests of what must hold in each of them."""

from __future__ import annotations

from typing import Any

import torch
import transformers

N_LAYERS = 3
D_MODEL = 32
VOCABULARY = 64

_SHARED: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_MULTI_HEAD: dict[str, Any] = {
    **_SHARED,
    "hidden_size": D_MODEL,
    "intermediate_size": 48,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
_GROUPED: dict[str, Any] = {**_MULTI_HEAD, "num_key_value_heads": 2}
_GPT: dict[str, Any] = {
    **_SHARED,
    "n_embd": D_MODEL,
    "n_layer": N_LAYERS,
    "n_head": 4,
    "n_positions": 128,
}

# Family: the prefix of its classes, what its configuration shares, and what is its own. Windows
# are shorter than the tests' texts, and there is a layer without experts: both kinds must hold.
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("Llama", _GROUPED, {}),
    "gpt2": ("GPT2", _GPT, {}),
    "gptj": ("GPTJ", _GPT, {"rotary_dim": 4}),
    "gpt_neox": ("GPTNeoX", _MULTI_HEAD, {}),
    "gemma": ("Gemma", _GROUPED, {"head_dim": 8}),
    "gemma2": (
        "Gemma2",
        _GROUPED,
        {"head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8},
    ),
    "gemma3": (
        "Gemma3Text",
        _GROUPED,
        {"head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8},
    ),
    "qwen2": ("Qwen2", _GROUPED, {}),
    "qwen3": ("Qwen3", _GROUPED, {"head_dim": 8}),
    "qwen3_moe": (
        "Qwen3Moe",
        _GROUPED,
        {
            "head_dim": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "mlp_only_layers": [0],
        },
    ),
    "mistral": ("Mistral", _GROUPED, {"sliding_window": 4}),
    "mixtral": ("Mixtral", _GROUPED, {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "phi": ("Phi", _MULTI_HEAD, {}),
    "phi3": ("Phi3", _GROUPED, {}),
    "opt": ("OPT", _MULTI_HEAD, {"ffn_dim": 48, "word_embed_proj_dim": D_MODEL}),
    "olmo2": ("Olmo2", _GROUPED, {}),
    "falcon": ("Falcon", _MULTI_HEAD, {}),
    "bloom": ("Bloom", _SHARED, {"hidden_size": D_MODEL, "n_layer": N_LAYERS, "n_head": 4}),
    "cohere": ("Cohere", _GROUPED, {"logit_scale": 1.0}),
    "stablelm": ("StableLm", _GROUPED, {}),
    "starcoder2": ("Starcoder2", _GROUPED, {}),
    "granite": (
        "Granite",
        _GROUPED,
        {
            "residual_multiplier": 0.3,
            "embedding_multiplier": 2.0,
            "attention_multiplier": 0.2,
            "logits_scaling": 1.5,
        },
    ),
    "smollm3": ("SmolLM3", _GROUPED, {"no_rope_layers": [1, 0, 1]}),
    "mpt": ("Mpt", _SHARED, {"d_model": D_MODEL, "n_layers": N_LAYERS, "n_heads": 4}),
    "gpt_oss": (
        "GptOss",
        _GROUPED,
        {
            "head_dim": 8,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 4,
        },
    ),
}

_VIT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_QWEN_VIT: dict[str, Any] = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "out_hidden_size": D_MODEL,
    "patch_size": 14,
}
_TEXT: dict[str, Any] = {**_GROUPED, "head_dim": 8}
_QWEN_ROPE: dict[str, Any] = {"rope_type": "default", "mrope_section": [1, 1, 2]}
_QWEN_IDS: dict[str, Any] = {
    "image_token_id": 60,
    "video_token_id": 61,
    "vision_start_token_id": 62,
    "vision_end_token_id": 63,
}
# Wrappers that see images too: the prefix of their classes, and their configuration.
WRAPPERS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2_5_vl": (
        "Qwen2_5_VL",
        {
            "text_config": {**_TEXT, "rope_scaling": {**_QWEN_ROPE, "type": "default"}},
            "vision_config": _QWEN_VIT,
            **_QWEN_IDS,
        },
    ),
    "qwen3_vl": (
        "Qwen3VL",
        {
            "text_config": {**_TEXT, "rope_scaling": _QWEN_ROPE},
            "vision_config": {**_QWEN_VIT, "deepstack_visual_indexes": [0]},
            **_QWEN_IDS,
        },
    ),
    "mistral3": (
        "Mistral3",
        {
            "text_config": {**_TEXT, "model_type": "mistral"},
            "vision_config": {**_VIT, "model_type": "pixtral"},
            "image_token_index": 60,
        },
    ),
    "llava": (
        "Llava",
        {
            "text_config": {**_TEXT, "model_type": "llama"},
            "vision_config": {**_VIT, "model_type": "clip_vision_model"},
            "image_token_index": 60,
        },
    ),
    "gemma3": (
        "Gemma3",
        {
            "text_config": {**_TEXT, "sliding_window": 4, "query_pre_attn_scalar": 8},
            "vision_config": {**_VIT, "model_type": "siglip_vision_model"},
            "mm_tokens_per_image": 4,
            "image_token_index": 60,
            "boi_token_index": 61,
            "eoi_token_index": 62,
        },
    ),
}
# Models that carry a state from token to token.
RECURRENT: dict[str, tuple[str, dict[str, Any]]] = {
    "recurrent_gemma": (
        "RecurrentGemma",
        {
            **_TEXT,
            "lru_width": D_MODEL,
            "attention_window_size": 8,
            "block_types": ["recurrent", "recurrent", "attention"],
        },
    ),
    "rwkv": (
        "Rwkv",
        {
            **_SHARED,
            "hidden_size": D_MODEL,
            "attention_hidden_size": D_MODEL,
            "num_hidden_layers": N_LAYERS,
            "intermediate_size": 48,
            "context_length": 128,
        },
    ),
}

# Families whose class is not the prefix and `ForCausalLM`.
_CLASSES = {"GPT2": "GPT2LMHeadModel", "Gemma3Text": "Gemma3ForCausalLM"}


def build(name: str) -> torch.nn.Module:
    """The family `name` as a random model in evaluation mode, float32, the same at each call."""
    prefix, shared, own = FAMILIES[name]
    config = getattr(transformers, f"{prefix}Config")(**shared, **own)
    return randomised(getattr(transformers, _CLASSES.get(prefix, f"{prefix}ForCausalLM")), config)


def build_wrapper(name: str) -> torch.nn.Module:
    """One of `WRAPPERS`, likewise."""
    prefix, settings = WRAPPERS[name]
    config = getattr(transformers, f"{prefix}Config")(**settings)
    return randomised(getattr(transformers, f"{prefix}ForConditionalGeneration"), config)


def build_recurrent(name: str) -> torch.nn.Module:
    """One of `RECURRENT`, likewise."""
    prefix, settings = RECURRENT[name]
    config = getattr(transformers, f"{prefix}Config")(**settings)
    return randomised(getattr(transformers, f"{prefix}ForCausalLM"), config)


def randomised(model_class: Any, config: Any) -> torch.nn.Module:
    """A model of `config` whose every parameter is random, norms and biases too.

    With the usual initial values norms are the identity and biases are nothing, and a hook on
    the wrong side of one would go unnoticed.
    """
    config.architectures = [model_class.__name__]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: torch.nn.Module = model_class(config)
        for path, parameter in model.named_parameters():
            is_gain = parameter.dim() == 1 and path.endswith("weight")
            parameter.data = float(is_gain) + 0.2 * torch.randn_like(parameter)
    return model.eval()
