"""The pocket model: a small language model that ships with steer, trained on text from a grammar,
so that the true probabilities are known."""

from __future__ import annotations

from pathlib import Path


def path() -> Path:
    """The folder of the weights, the tokenizer and the model card, as Hugging Face reads it."""
    return Path(__file__).parent / "weights"
