"""A Hugging Face text classifier as a judge of generated texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from steer.models.loading import explained, quiet
from steer.models.source import ModelSource

TOGETHER = 16

Classify = Callable[[Sequence[str]], list[dict[str, float]]]


def load(location: str) -> Classify:
    """A function that gives the probability of each label for texts. location: a hub id or folder.

    A single label's logit is taken as log-odds. Texts that are too long are truncated.

    Raises:
        ModelError: the model cannot be loaded, or has no weights of a classifier.
    """
    source = ModelSource(location)
    with quiet(), explained(source):
        tokenizer = AutoTokenizer.from_pretrained(source.location)
        network, report = AutoModelForSequenceClassification.from_pretrained(
            source.location, output_loading_info=True
        )
        if report["missing_keys"]:
            raise ValueError(f"not a classifier: it lacks {sorted(report['missing_keys'])[0]}")
    network.eval()
    labels = [network.config.id2label[index] for index in range(network.config.num_labels)]
    limit = getattr(network.config, "max_position_embeddings", None)
    if network.config.pad_token_id is None:
        network.config.pad_token_id = tokenizer.pad_token_id

    @torch.no_grad()
    def classify(texts: Sequence[str]) -> list[dict[str, float]]:
        probabilities: list[dict[str, float]] = []
        for start in range(0, len(texts), TOGETHER):
            encoded = tokenizer(
                list(texts[start : start + TOGETHER]),
                return_tensors="pt",
                padding=True,
                truncation=limit is not None,
                max_length=limit,
            )
            logits = network(**encoded).logits.float()
            scores = logits.sigmoid() if len(labels) == 1 else logits.softmax(-1)
            probabilities += [dict(zip(labels, row, strict=True)) for row in scores.tolist()]
        return probabilities

    return classify
