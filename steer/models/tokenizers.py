"""Tokenizers of any class, loaded as ones that steer can use, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from steer.base.errors import ModelError
from steer.models.source import ModelSource


def load(source: ModelSource, common: Mapping[str, Any]) -> Any:
    """The tokenizer of a model; common: keyword arguments of `from_pretrained`.

    Where mistral-common is installed, transformers wraps its tokenizer for Mistral's models, which
    has neither offsets nor a template that text can be put through: its own is taken in its place.

    Raises:
        ModelError: it is of a class that cannot be used.
    """
    tokenizer = AutoTokenizer.from_pretrained(source.location, **common)
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return tokenizer
    made = type(tokenizer).__name__
    try:
        return PreTrainedTokenizerFast.from_pretrained(source.location, **common)
    except Exception as error:
        raise ModelError(
            f"the tokenizer of {source.name} is a {made}, which gives no offsets",
            hint="add the tokenizer.json of the same model in Hugging Face's format to its folder",
        ) from error
