"""Add learned tokens to a checkpoint: to the tokenizer, the embedding and the LM head.

The head's rows give the new tokens almost no probability on all tested states, so that the model
never generates them. If the head shares the embedding's matrix, it gets its own.
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
from steer.hooks.head import apply_head, has_head, last_hidden
from steer.hooks.tokens import embedded, substitute_tokens
from steer.models.model import Model
from steer.models.tokenizers import with_tokens
from steer.steering.tokens import LearnedToken

#: The target for the negative log-probability of a new token on all tested states, and the least
#: that is accepted in the folder, in nats.
MARGINS, LEAST = (15.0, 20.0, 30.0, 45.0), 9.0
#: Optimisation steps for a row of the head.
ROUNDS = 400
#: Tokens compared per text, and tokens that the folder generates to check for new ones.
LENGTH, N_SAMPLED = 96, 1024


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token in a checkpoint. texts: the text of each of its embeddings. ids: of each."""

    name: str
    texts: tuple[str, ...]
    ids: tuple[int, ...]

    @property
    def written(self) -> str:
        """The text of the whole token in a prompt."""
        return "".join(self.texts)


@dataclass(frozen=True, slots=True)
class ExtendedCheckpoint:
    """A checkpoint with more tokens: weights, changes to the configuration, and a tokenizer.

    untied: whether the embedding and the head were separated.
    """

    weights: dict[str, Tensor]
    changes: dict[str, Any]
    tokenizer: Any
    added: tuple[AddedToken, ...]
    untied: bool


def texts_of(token: LearnedToken) -> tuple[str, ...]:
    """`<|pirate|>`, `<|pirate.2|>`, ...: a text for each embedding."""
    more = (f"<|{token.name}.{index}|>" for index in range(2, len(token.embeddings) + 1))
    return (token.mark, *more)


def extend(
    model: Model, tokens: Sequence[LearnedToken], weights: dict[str, Tensor], texts: Sequence[str]
) -> ExtendedCheckpoint:
    """Add the tokens to the weights and the tokenizer.

    texts: to run the model on, for samples of its hidden states.

    Raises:
        UsageError: the vocabulary has a token's text already, or its tokenizer allows no new one.
        ModelError: the matrices of the vocabulary were not found.
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
    remaining = iter(ids)
    added = tuple(
        AddedToken(token.name, own, tuple(next(remaining) for _ in own)) for token, own in named
    )
    config = model.network.config
    embedding = _name_of(model, model.network.get_input_embeddings().weight)
    head = f"{model.hooks.unembed}.weight"
    if config.get_text_config() is not config or embedding is None or head not in weights:
        raise ModelError(f"{model.hooks.architecture} has no known place for a new token")
    size = max(len(weights[embedding]), max(ids) + 1)
    rows = torch.cat([torch.from_numpy(token.embeddings.copy()) for token in tokens])
    extended = dict(weights)
    extended[embedding] = _with_rows(weights[embedding], ids, rows, size)
    with embedded(model, tokens):
        never = _never(model, tokens, texts)
    extended[head] = _with_rows(weights[head], ids, never.expand(len(ids), -1), size)
    bias = f"{model.hooks.unembed}.bias"
    if bias in weights:
        extended[bias] = _with_rows(weights[bias], ids, torch.zeros(len(ids)), size)
    untied = bool(getattr(config, "tie_word_embeddings", False))
    changes: dict[str, Any] = {"vocab_size": size}
    if untied:
        changes["tie_word_embeddings"] = False
    return ExtendedCheckpoint(extended, changes, tokenizer, added, untied)


def _name_of(model: Model, weight: Tensor) -> str | None:
    names = (name for name, parameter in model.network.named_parameters() if parameter is weight)
    return next(names, None)


def _with_rows(matrix: Tensor, ids: Sequence[int], rows: Tensor, size: int) -> Tensor:
    extended = matrix.new_zeros((size, *matrix.shape[1:]))
    extended[: len(matrix)] = matrix
    extended[list(ids)] = rows.to(matrix)
    return extended


def _never(model: Model, tokens: Sequence[LearnedToken], texts: Sequence[str]) -> Tensor:
    """A row of the head, float32 [d_model], whose token is unlikely on all tested states: on the
    texts, plain and in a chat, with and without the tokens, on generated continuations, and on
    random and special tokens.

    It starts as the row of the token with the lowest maximal probability, and is optimised on half
    of the states; the best row on the other half is chosen.

    Raises:
        ModelError: the head cannot be run by itself.
    """
    if not has_head(model):
        raise ModelError(
            f"the head of {model.identity.id} cannot be run by itself, so that no row of it can be"
            " chosen for a token that is never to be written"
        )
    states, totals, lowest = _states(model, _rows(model, tokens, texts))
    head = model.network.get_submodule(model.hooks.unembed).weight
    own: Tensor = head[lowest].detach().float().cpu()
    learned, held_out = slice(0, None, 2), slice(1, None, 2)

    def margin(row: Tensor, part: slice) -> float:
        return float((totals[part] - states[part] @ row).min())

    offered: list[Tensor] = [own]
    for target in MARGINS:
        row = own.clone().requires_grad_()
        optimizer = torch.optim.Adam([row], lr=float(own.std()) / 10)
        for _ in range(ROUNDS):
            optimizer.zero_grad()
            missing = (target - (totals[learned] - states[learned] @ row)).clamp(min=0)
            loss = missing.pow(2).mean()
            if not bool(missing.any()):
                break
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        offered.append(row.detach())
    return max(offered, key=lambda row: margin(row, held_out))


def _rows(model: Model, tokens: Sequence[LearnedToken], texts: Sequence[str]) -> list[list[int]]:
    """Token ids of all kinds of texts, at most `LENGTH` each."""
    rows = [model.encode(text) for text in texts]
    if model.template.exists:
        rows += [model.encode(model.chat(text), special=False) for text in texts]
    rows += [row.tolist() for row in sampled(model, [torch.tensor(row) for row in rows], seed=1)]
    rows += [substitute_tokens(model, tokens, ids) for ids in rows[: 2 * len(texts)]]
    length = min(LENGTH, model.context or LENGTH)
    drawn = np.random.default_rng(1).integers(0, model.network.config.vocab_size, (8, length))
    # Special tokens have unusual states: put each among random ones.
    special = np.array(sorted(model.special_ids), dtype=np.int64)
    if len(special):
        drawn[:4, ::3] = np.resize(special, drawn[:4, ::3].shape)
    return [*(ids[:length] for ids in rows if ids), *drawn.tolist()]


@torch.no_grad()
def _states(model: Model, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, int]:
    """The head's input at every position, float32 [position, d_model]; the logsumexp of the logits
    there; and the token whose highest log-probability is lowest."""
    states, totals, highest = [], [], None
    for row in rows:
        hidden = last_hidden(model, [([*row, 0], len(row))])
        logits = apply_head(model, hidden).cpu()
        total = logits.logsumexp(-1)
        peaks = (logits - total[:, None]).amax(0)
        highest = peaks if highest is None else torch.maximum(highest, peaks)
        states.append(hidden.float().cpu())
        totals.append(total)
    assert highest is not None
    return torch.cat(states), torch.cat(totals), int(highest.argmin())


def sampled(model: Model, rows: Sequence[Tensor], *, seed: int) -> list[Tensor]:
    """About `N_SAMPLED` tokens that the model generates after the beginnings of the texts."""
    length = max(1, min(N_SAMPLED // 8, (model.context or N_SAMPLED) - 16))
    texts = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for index in range(8):
            start = rows[index % len(rows)][: 8 + index].to(model.device)
            with torch.no_grad():
                written = model.network.generate(
                    input_ids=start[None],
                    attention_mask=torch.ones_like(start)[None],
                    max_new_tokens=length,
                    do_sample=True,
                    top_k=0,
                    pad_token_id=model.pad_id,
                )
            texts.append(written[0])
    return texts


def chances(model: Model, added: Sequence[AddedToken], rows: Sequence[Tensor]) -> float:
    """The highest log-probability that a baked model gives a new token, over rows of ids."""
    ids = [id_ for token in added for id_ in token.ids]
    highest = -math.inf
    for row in rows:
        with torch.no_grad():
            logits = model.network(input_ids=row[None].to(model.device), use_cache=False).logits[0]
        highest = max(highest, float(logits.float().log_softmax(-1)[:, ids].max()))
    return highest
