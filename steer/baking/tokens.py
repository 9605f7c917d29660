"""Learned tokens in a checkpoint: entries of the tokenizer, rows of the embedding and of the head.

The head's rows of new tokens give logits far below all others wherever the model was seen, so that
it never writes them; where the head shares the embedding's matrix, it gets one of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steer.base.errors import ModelError, UsageError
from steer.hooks.head import has_head, headed, last_hidden
from steer.hooks.tokens import embedded, standing
from steer.models.model import Model
from steer.models.tokenizers import with_tokens
from steer.steering.tokens import LearnedToken

#: How far the logit of a new token is below the highest, in nats, on all tokens that were seen; on
#: others it has to be at least `LEAST` below.
BELOW, LEAST = 60.0, 20.0
#: Rounds in which a direction is sought that all hidden states have a part along.
ROUNDS = 500


@dataclass(frozen=True, slots=True)
class Added:
    """A token in a checkpoint. texts: how its embeddings are written, one after the other. ids: of
    each."""

    name: str
    texts: tuple[str, ...]
    ids: tuple[int, ...]

    @property
    def written(self) -> str:
        """The text that stands for the whole token in a prompt."""
        return "".join(self.texts)


@dataclass(frozen=True, slots=True)
class Extended:
    """What a checkpoint with more tokens has: weights, changes to the configuration, a tokenizer.

    untied: the embedding and the head were one matrix, and are two.
    """

    weights: dict[str, Tensor]
    changes: dict[str, Any]
    tokenizer: Any
    added: tuple[Added, ...]
    untied: bool


def texts_of(token: LearnedToken) -> tuple[str, ...]:
    """`<|pirate|>`, `<|pirate.2|>`, ...: a text for each embedding."""
    more = (f"<|{token.name}.{index}|>" for index in range(2, len(token.embeddings) + 1))
    return (token.mark, *more)


def extend(
    model: Model, tokens: Sequence[LearnedToken], weights: dict[str, Tensor], texts: Sequence[str]
) -> Extended:
    """Weights with rows for the tokens, and a tokenizer that has them.

    texts: on which the model is run, to see where its hidden states lie.

    Raises:
        UsageError: the vocabulary has a token's text already, or its tokenizer takes no new one.
        ModelError: a network whose matrices are not known to hold the vocabulary.
    """
    named = [(token, texts_of(token)) for token in tokens]
    known = model.tokenizer.get_vocab()
    for token, own in named:
        for text in own:
            if text in known:
                raise UsageError(
                    f"the vocabulary of {model.identity.id} has {text} already",
                    hint=f"bake {token.name!r} under another name: copy its file as another name",
                )
    tokenizer, ids = with_tokens(model.tokenizer, [text for _, own in named for text in own])
    given = iter(ids)
    added = tuple(Added(token.name, own, tuple(next(given) for _ in own)) for token, own in named)
    config = model.network.config
    embedding = _name_of(model, model.network.get_input_embeddings().weight)
    head = f"{model.hooks.unembed}.weight"
    if config.get_text_config() is not config or embedding is None or head not in weights:
        raise ModelError(f"{model.hooks.architecture} has no known place for a new token")
    size = max(len(weights[embedding]), max(ids) + 1)
    rows = torch.cat([torch.from_numpy(token.embeddings.copy()) for token in tokens])
    made = dict(weights)
    made[embedding] = _with_rows(weights[embedding], ids, rows, size)
    never = _never(model, tokens, texts)
    made[head] = _with_rows(weights[head], ids, never.expand(len(ids), -1), size)
    bias = f"{model.hooks.unembed}.bias"
    if bias in weights:
        made[bias] = _with_rows(weights[bias], ids, torch.zeros(len(ids)), size)
    untied = bool(getattr(config, "tie_word_embeddings", False))
    changes: dict[str, Any] = {"vocab_size": size}
    if untied:
        changes["tie_word_embeddings"] = False
    return Extended(made, changes, tokenizer, added, untied)


def _name_of(model: Model, weight: Tensor) -> str | None:
    names = (name for name, one in model.network.named_parameters() if one is weight)
    return next(names, None)


def _with_rows(matrix: Tensor, ids: Sequence[int], rows: Tensor, size: int) -> Tensor:
    made = matrix.new_zeros((size, *matrix.shape[1:]))
    made[: len(matrix)] = matrix
    made[list(ids)] = rows.to(matrix)
    return made


@torch.no_grad()
def _never(model: Model, tokens: Sequence[LearnedToken], texts: Sequence[str]) -> Tensor:
    """A row of the head, float32 [d_model], that gives a logit `BELOW` the highest or lower: on the
    texts, plain and in a chat, with the tokens and without, on random tokens and special ones.

    Raises:
        ModelError: there is none, or the head cannot be run by itself.
    """
    if not has_head(model):
        raise ModelError(
            f"the head of {model.identity.id} cannot be run by itself, so that no row of it can be"
            " chosen for a token that is never to be written"
        )
    rows = [model.encode(text) for text in texts]
    if model.template.exists:
        rows += [model.encode(model.chat(text), special=False) for text in texts]
    rows += [standing(model, tokens, ids) for ids in rows]
    length = min(64, model.context or 64)
    drawn = np.random.default_rng(1).integers(0, model.network.config.vocab_size, (8, length))
    # Special tokens lead to states of their own: each stands among random ones.
    special = np.array(sorted(model.special_ids), dtype=np.int64)
    if len(special):
        drawn[:4, ::3] = np.resize(special, drawn[:4, ::3].shape)
    rows += drawn.tolist()
    with embedded(model, tokens):
        # Every position: the last one predicts a token that is appended, and never looked at.
        hidden = last_hidden(model, [([*ids[-length:], 0], len(ids[-length:])) for ids in rows])
    highest = float(headed(model, hidden).max())
    states = hidden.float().cpu()
    units = states / states.norm(dim=1, keepdim=True)
    direction = units.mean(0)
    for _ in range(ROUNDS):
        direction = direction / direction.norm()
        along = units @ direction
        lowest = int(along.argmin())
        if along[lowest] > 0.5 * along.median():
            break
        direction = direction + 0.1 * units[lowest]
    least = float((states @ direction).min())
    if not least > 0 or not math.isfinite(least):
        raise ModelError(
            f"no row of the head of {model.identity.id} was found that is never written",
            hint="use the token with steer apply or steer serve, which need no row",
        )
    never: Tensor = -direction * (BELOW + max(highest, 0.0)) / least
    return never


def chances(model: Model, added: Sequence[Added], rows: Sequence[Tensor]) -> float:
    """The highest log-probability that a baked model gives a new token, over rows of ids."""
    ids = [id_ for one in added for id_ in one.ids]
    found = -math.inf
    for row in rows:
        with torch.no_grad():
            logits = model.network(input_ids=row[None].to(model.device), use_cache=False).logits[0]
        found = max(found, float(logits.float().log_softmax(-1)[:, ids].max()))
    return found
