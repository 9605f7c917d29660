"""The modules of each architecture that write to the residual stream, and their biases.

Adding a vector after a layer is a bias of the layer's last write, the output projection of its MLP;
adding one to attn_out is a bias of attention's output projection. Not every architecture supports
such a bias, and some need a setting in the configuration. The tests compare every row with the
hooks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from steer.base.errors import ModelError
from steer.vectors.sites import listed

#: Which axis of a matrix is d_model: of `nn.Linear` [out, in], experts [expert, out, in] ...
OUT_IN = -2
#: ... and of GPT-2's Conv1D [in, out], embeddings [token, d_model], gpt-oss [expert, in, out].
IN_OUT = -1


@dataclass(frozen=True, slots=True)
class Family:
    """The structure of one model class. Paths are of modules; a layer's paths follow `blocks`.

    attention, mlp: the output projections; a layer has some of those in `mlp`. axis: the axis of
    d_model in the MLP's matrices, and attention_axis in attention's. experts: the MLP's matrices
    are parameters of experts, not modules.
    embeddings: the embeddings whose sum begins the stream; none if a norm follows.
    mlp_bias, attention_bias: the settings for biases of the projections (empty if they always have
    one), None if they cannot have any.
    as_llama: the model is a special case of Llama, and has biases if it is saved as one.
    parallel: attention and MLP share an input, so a constant of one can be a bias of the other.
    scale: the configuration's name of a factor of everything that is written.
    post_norms: the norms after attention and MLP. norm_offset: added to the norms' weights.
    """

    blocks: str = "model.layers"
    attention: str = "self_attn.o_proj"
    mlp: tuple[str, ...] = ("mlp.down_proj",)
    attention_axis: int = OUT_IN
    axis: int = OUT_IN
    experts: bool = False
    embeddings: tuple[str, ...] = ("model.embed_tokens",)
    mlp_bias: Mapping[str, Any] | None = None
    attention_bias: Mapping[str, Any] | None = None
    as_llama: bool = False
    parallel: bool = False
    scale: str | None = None
    post_norms: tuple[str, str] | None = None
    norm_offset: float = 0.0

    @property
    def dense(self) -> bool:
        """Whether the MLP has no experts."""
        return not self.experts


_MLP, _ATTENTION = {"mlp_bias": True}, {"attention_bias": True}
_LLAMA = Family(mlp_bias=_MLP, attention_bias=_ATTENTION)
_PLAIN = Family()
_ATTENTION_ONLY = Family(attention_bias=_ATTENTION)
_POST_NORM = Family(post_norms=("post_attention_layernorm", "post_feedforward_layernorm"))
_EXPERTS = Family(mlp=("mlp.experts.down_proj", "mlp.down_proj"), experts=True)
_GPT = Family(
    blocks="transformer.h",
    attention="attn.c_proj",
    mlp=("mlp.c_proj",),
    embeddings=("transformer.wte", "transformer.wpe"),
    mlp_bias={},
    attention_bias={},
)
_BLOOM = Family(
    blocks="transformer.h",
    attention="self_attention.dense",
    mlp=("mlp.dense_4h_to_h",),
    embeddings=(),
    mlp_bias={},
    attention_bias={},
)
FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": _LLAMA,
    "GraniteForCausalLM": replace(_LLAMA, scale="residual_multiplier"),
    "SmolLM3ForCausalLM": _LLAMA,
    "ArceeForCausalLM": _LLAMA,
    "NemotronForCausalLM": _LLAMA,
    "SeedOssForCausalLM": replace(_LLAMA, attention_bias={"attention_out_bias": True}),
    "MistralForCausalLM": replace(_LLAMA, as_llama=True),
    "Qwen2ForCausalLM": replace(_LLAMA, as_llama=True),
    "GPT2LMHeadModel": replace(_GPT, axis=IN_OUT, attention_axis=IN_OUT),
    "GPTNeoForCausalLM": replace(_GPT, attention="attn.attention.out_proj"),
    "GPTJForCausalLM": replace(
        _GPT,
        attention="attn.out_proj",
        mlp=("mlp.fc_out",),
        embeddings=("transformer.wte",),
        attention_bias=None,
        parallel=True,
    ),
    "GPTNeoXForCausalLM": Family(
        blocks="gpt_neox.layers",
        attention="attention.dense",
        mlp=("mlp.dense_4h_to_h",),
        embeddings=("gpt_neox.embed_in",),
        mlp_bias={},
        attention_bias=_ATTENTION,
    ),
    "PhiForCausalLM": Family(
        attention="self_attn.dense", mlp=("mlp.fc2",), mlp_bias={}, attention_bias={}
    ),
    "Starcoder2ForCausalLM": Family(
        mlp=("mlp.c_proj",), mlp_bias={"use_bias": True}, attention_bias={"use_bias": True}
    ),
    "FalconForCausalLM": replace(
        _BLOOM,
        embeddings=("transformer.word_embeddings",),
        mlp_bias={"bias": True},
        attention_bias={"bias": True},
    ),
    "BloomForCausalLM": _BLOOM,
    "OPTForCausalLM": Family(
        blocks="model.decoder.layers",
        attention="self_attn.out_proj",
        mlp=("fc2",),
        embeddings=("model.decoder.embed_tokens", "model.decoder.embed_positions"),
        mlp_bias={"enable_bias": True},
        attention_bias={"enable_bias": True},
    ),
    "MptForCausalLM": Family(
        blocks="transformer.blocks",
        attention="attn.out_proj",
        mlp=("ffn.down_proj",),
        embeddings=("transformer.wte",),
    ),
    "CohereForCausalLM": replace(_ATTENTION_ONLY, parallel=True),
    "Qwen3ForCausalLM": _ATTENTION_ONLY,
    "GemmaForCausalLM": _ATTENTION_ONLY,
    "OlmoForCausalLM": _ATTENTION_ONLY,
    "Phi3ForCausalLM": _PLAIN,
    "StableLmForCausalLM": _PLAIN,
    "MixtralForCausalLM": _EXPERTS,
    "Qwen3MoeForCausalLM": replace(_EXPERTS, attention_bias=_ATTENTION),
    "Qwen2MoeForCausalLM": replace(_EXPERTS, mlp=(*_EXPERTS.mlp, "mlp.shared_expert.down_proj")),
    # Its experts' biases are weighted as they are, by weights that sum to 1.
    "GptOssForCausalLM": replace(
        _EXPERTS,
        mlp=("mlp.experts.down_proj",),
        axis=IN_OUT,
        mlp_bias={},
        attention_bias=_ATTENTION,
    ),
    "Olmo2ForCausalLM": _POST_NORM,
    "Olmo3ForCausalLM": _POST_NORM,
    "Gemma2ForCausalLM": replace(_POST_NORM, norm_offset=1.0),
    "Gemma3ForCausalLM": replace(_POST_NORM, norm_offset=1.0),
}


def family_of(architecture: str) -> Family:
    """The family of an architecture.

    Raises:
        ModelError: it is not supported.
    """
    if architecture not in FAMILIES:
        names = (name.removesuffix("ForCausalLM").removesuffix("LMHeadModel") for name in FAMILIES)
        raise ModelError(
            f"bake does not support {architecture}",
            hint=f"`steer apply` steers it with hooks; bake supports {listed(sorted(names))}",
        )
    return FAMILIES[architecture]
