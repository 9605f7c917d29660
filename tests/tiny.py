"""Tiny random models with a tokenizer of a few words, as the tool sees them."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import torch
from conftest import make_vector
from families import VOCABULARY, build
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from steer.models.model import Model, wrap
from steer.steering.operation import Coefficient
from steer.steering.scope import EVERYWHERE, Scope
from steer.steering.steers import Steer
from steer.vectors.sites import Site
from steer.vectors.vector import SteeringVector

#: Trims, as most do, and puts two tokens after what a user says.
CHAT_TEMPLATE = (
    "<s>{% for message in messages %}"
    " {{ {'system': 'w50', 'user': 'w51'}.get(message.role, 'w52') }}"
    " {{ message.content | trim }} w62{% endfor %}{% if add_generation_prompt %} w52{% endif %}"
)
WORDS = [f"w{number}" for number in range(3, VOCABULARY)]


def tokenizer() -> PreTrainedTokenizerFast:
    """`w3 w4 ...` by word; a first token; padding that is not the end."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2} | {word: int(word[1:]) for word in WORDS}
    inner = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    inner.pre_tokenizer = WhitespaceSplit()
    inner.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def wrapped(network: torch.nn.Module, name: str) -> Model:
    """A network with the tokenizer above. It never ends a text by itself."""
    network.generation_config.eos_token_id = None
    network.generation_config.bos_token_id = 1
    model = wrap(network, tokenizer(), model_id=name)
    model.tokenizer.eos_token = None
    return model


@cache
def model(family: str) -> Model:
    """One of the families; shared, so tests leave it as it is."""
    return wrapped(build(family), f"tiny-{family}")


def chat_model(family: str, padding_side: str = "right") -> Model:
    """The same with a chat template."""
    original = model(family)
    tokens = tokenizer()
    tokens.chat_template, tokens.padding_side = CHAT_TEMPLATE, padding_side
    return dataclasses.replace(original, tokenizer=tokens)


def save(folder: Path, family: str = "llama") -> Path:
    """The model as a Hugging Face folder."""
    build(family).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def vector(
    on: Model, *, layers: tuple[int, ...] = (1,), site: str = "resid_post", seed: int = 0
) -> SteeringVector:
    """A random vector that fits `on`."""
    return make_vector(on.identity, layers=layers, site=site, seed=seed)


def steer_at(on: Model, site: Site, delta: Tensor) -> Steer:
    """Adds exactly `delta` at `site`."""
    vector_made = vector(on, layers=(site.layer,), site=site.name)
    exact = SteeringVector(vector_made.metadata, delta.numpy()[None].astype("float32"))
    return Steer(exact, Coefficient(1), (site.layer,))


def steer(
    on: Model, coefficient: float = 1.0, scope: Scope = EVERYWHERE, **vector_options: object
) -> Steer:
    """A steer with a random vector at its recommended layers."""
    vector_made = vector(on, **vector_options)  # type: ignore[arg-type]
    return Steer(vector_made, Coefficient(coefficient), vector_made.metadata.layers, scope)


def low_rank_steer(
    on: Model, coefficient: float = 1.0, scope: Scope = EVERYWHERE, **vector_options: object
) -> Steer:
    """A steer with a random edit of rank 2 at its recommended layers."""
    vector_made = vector(on, **vector_options)  # type: ignore[arg-type]
    rng = np.random.default_rng(vector_made.directions.view(np.uint32).ravel())
    shape = (len(vector_made.metadata.layers), 2, on.identity.d_model)
    down, up = (0.3 * rng.normal(size=shape).astype(np.float32) for _ in range(2))
    edit = SteeringVector(
        msgspec.structs.replace(vector_made.metadata, rank=2),
        vector_made.directions,
        down,
        up.swapaxes(1, 2),
    )
    return Steer(edit, Coefficient(coefficient), vector_made.metadata.layers, scope)


def renamed(original: SteeringVector, **changes: object) -> SteeringVector:
    """The same numbers with other metadata."""
    return SteeringVector(
        msgspec.structs.replace(original.metadata, **changes), original.directions
    )


def n_hooks(on: Model) -> int:
    """How many hooks, and modules with a `forward` of their own, a model has now."""
    modules = list(on.network.modules())
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)
    return hooks + sum("forward" in vars(m) for m in modules)
