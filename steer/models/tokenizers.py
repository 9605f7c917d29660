"""Load a tokenizer in a form that gives offsets and a chat template, or refuse it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AddedToken, AutoTokenizer

from steer.base.errors import ModelError
from steer.models.source import ModelSource


def load(source: ModelSource, common: Mapping[str, Any]) -> Any:
    """The tokenizer of a model. common: keyword arguments of `from_pretrained`.

    If mistral-common is installed, transformers uses its tokenizer for Mistral's models, which has
    neither offsets nor a template; this loads Hugging Face's own instead.

    Raises:
        ModelError: the folder has only mistral-common's files.
    """
    tokenizer = AutoTokenizer.from_pretrained(source.location, **common)
    if type(tokenizer).__name__ != "MistralCommonBackend":
        return tokenizer
    try:
        return AutoTokenizer.from_pretrained(source.location, mistral_format=False, **common)
    except Exception as error:
        raise ModelError(
            f"the tokenizer of {source.name} is mistral-common's, which gives no offsets of tokens"
            " in the text",
            hint="add tokenizer.json, Hugging Face's version of the same tokenizer, to the folder",
        ) from error


def with_tokens(tokenizer: Any, texts: Sequence[str]) -> tuple[Any, list[int]]:
    """A copy of a tokenizer that takes each text as one token, and those tokens' ids."""
    copied = copy.deepcopy(tokenizer)
    copied.add_tokens([AddedToken(text, special=True, normalized=False) for text in texts])
    return copied, [int(copied.convert_tokens_to_ids(text)) for text in texts]
