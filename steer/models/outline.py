"""A model without its weights: for who has others work on it."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from steer.models.model import Model, explained, quiet, wrap
from steer.models.source import ModelSource


def outline(source: ModelSource) -> Model:
    """A model without its weights, which says what it is and makes tokens; its fingerprint is none.

    Raises:
        ModelError: it does not exist, cannot be reached, or is of a family that TransformerLens
            does not map.
    """
    common = {"revision": source.revision, "trust_remote_code": source.trust_remote_code}
    with quiet(), explained(source):
        config = AutoConfig.from_pretrained(source.location, **common)
        tokenizer = AutoTokenizer.from_pretrained(source.location, **common)
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(
                config, trust_remote_code=source.trust_remote_code
            )
    return wrap(network, tokenizer, model_id=source.public_id)
