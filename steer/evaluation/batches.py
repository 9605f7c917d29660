"""Batches of texts as token ids, and the quantities measured at each token. Generates no text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from steer.distillation.lessons import picks_columns, vocabulary
from steer.distillation.recovery import token_kl
from steer.hooks.clock import TokenClock
from steer.hooks.trunk import Trunk, can_be_spared, growing, sparing
from steer.models.model import Model
from steer.steering.projection import Gate


@dataclass(frozen=True, slots=True)
class Text:
    """Token ids, and the positions of those to score by the model's prediction.

    scored: rising positions, from 1. start: where the response begins, for scopes and gates.
    conditioned: ids of the same text after a condition, if there is one; it ends with the same
    tokens.
    """

    ids: tuple[int, ...]
    scored: tuple[int, ...]
    start: int = 0
    conditioned: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class TextBatch:
    """Texts that run together.

    columns: int64 [column], the positions whose next token is scored in some text. targets: int64
    [text, column], the next tokens. weights: float32 [text, column], 1 where a token is scored.
    spared: whether the last MLP runs at the columns only.
    """

    model: Model
    texts: Sequence[Text]
    ids: Tensor
    columns: Tensor
    targets: Tensor
    weights: Tensor
    spared: bool

    @classmethod
    def of(cls, model: Model, texts: Sequence[Text]) -> TextBatch:
        ids, _ = model.padded([text.ids for text in texts], left=False)
        columns = sorted({position - 1 for text in texts for position in text.scored}) or [0]
        index_of = {column: index for index, column in enumerate(columns)}
        weights = torch.zeros((len(texts), len(columns)))
        for row, text in enumerate(texts):
            weights[row, [index_of[position - 1] for position in text.scored]] = 1
        which = torch.tensor(columns, device=ids.device)
        targets = ids[:, (which + 1).clamp(max=ids.shape[1] - 1)]
        # Tested here, before any hooks are set.
        spared = can_be_spared(model)
        return cls(model, texts, ids, which, targets, weights.to(ids.device), spared)

    def clock(self, values: dict[Gate, list[float]]) -> TokenClock:
        """A clock for one cell, with a row for each text. values: those of prompt gates."""
        nothing = torch.zeros(len(self.texts), dtype=torch.int64)
        clock = TokenClock(0, nothing, values, [text.start for text in self.texts])
        clock.ids = self.ids
        clock.counted = torch.zeros(self.ids.shape, dtype=torch.bool)
        for row, text in enumerate(self.texts):
            clock.counted[row, [position - 1 for position in text.scored]] = True
        return clock

    @cached_property
    def base(self) -> Tensor:
        """Log-probabilities of the unsteered model at the columns, float32 [text, column,
        vocabulary]."""
        return self.log_probs(self.ids, self.columns)

    def grow(self) -> dict[int, Trunk]:
        """The trunk of every layer; computes `base` in the same forward."""
        with growing(self.model) as trunks:
            # Sparing the last MLP would leave its trunk incomplete.
            vars(self)["base"] = replace(self, spared=False).base
        return trunks

    @cached_property
    def conditioned(self) -> Tensor:
        """The same after the condition."""
        ids, _ = self.model.padded([text.conditioned for text in self.texts], left=False)
        shifts = [len(text.conditioned) - len(text.ids) for text in self.texts]
        columns = torch.tensor(shifts)[:, None] + self.columns.cpu()[None]
        # Positions that a text does not score may hold anything.
        columns = columns.clamp(0, ids.shape[1] - 1)
        kept, index = torch.unique(columns, return_inverse=True)
        log_probs = self.log_probs(ids, kept.to(ids.device))
        return log_probs[torch.arange(len(ids))[:, None], index.to(log_probs.device)]

    def log_probs(self, ids: Tensor, columns: Tensor) -> Tensor:
        """log p float32 [row, column, vocabulary] at the columns; the LM head runs there only.

        ids: int64 [row, position], padded on the right. Attention is causal, so the padding needs
        no mask, and attention without a mask is faster.
        """
        arguments = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
        with sparing(self.model, columns) if self.spared else nullcontext():
            if picks_columns(self.model):
                logits = self.model.network(**arguments, logits_to_keep=columns).logits
            else:
                logits = self.model.network(**arguments).logits
                logits = logits[:, columns.to(logits.device)]
        return torch.as_tensor(logits).float().log_softmax(-1)

    @property
    def n_logits(self) -> int:
        """Numbers in the log-probabilities of one cell."""
        return self.targets.numel() * vocabulary(self.model)

    def forget(self) -> None:
        """Drop the cached log-probabilities."""
        for name in ("base", "conditioned"):
            self.__dict__.pop(name, None)


#: A function of log-probabilities [cell, text, column, vocabulary] and their batch that gives a
#: number for each [cell, text, column].
TokenMeasure = Callable[[Tensor, TextBatch], Tensor]


def log_prob(cells: Tensor, batch: TextBatch) -> Tensor:
    """log p of the next token, in nats."""
    targets = batch.targets.to(cells.device).expand(cells.shape[:-1])
    return cells.gather(-1, targets[..., None]).squeeze(-1)


def drift(cells: Tensor, batch: TextBatch) -> Tensor:
    """KL(p_base || p_steered), in nats."""
    return token_kl(batch.base, cells)


def distance(cells: Tensor, batch: TextBatch) -> Tensor:
    """KL(p_condition || p_steered), in nats."""
    return token_kl(batch.conditioned, cells)


def surprise(cells: Tensor, batch: TextBatch) -> Tensor:
    """The expected surprise of the next token under the unsteered model, in nats: the cross-entropy
    -sum_v p_steered(v) log p_base(v). It averages over all tokens, not only the sampled one.
    """
    probabilities = cells.exp()
    # A token of probability 0 contributes 0, even if the unsteered model excludes it.
    products = probabilities * batch.base[None]
    return -products.masked_fill(probabilities == 0, 0.0).sum(-1)
