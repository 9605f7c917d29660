"""Texts as batches of token ids, and what is measured of each token. No text is generated."""

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
    """Token ids, and which of them are scored, each by what the model predicts before it.

    scored: rising positions, from 1. start: where the response begins, for scopes and gates.
    conditioned: ids of the same text after a condition, where there is one; the scored tokens end
    both alike.
    """

    ids: tuple[int, ...]
    scored: tuple[int, ...]
    start: int = 0
    conditioned: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Batch:
    """Texts that run together. columns: int64 [column], where one of them is predicted. targets:
    int64 [text, column], the token that comes. weights: float32 [text, column], 1 where it counts.
    spared: whether the last MLP runs at the columns alone.
    """

    model: Model
    texts: Sequence[Text]
    ids: Tensor
    columns: Tensor
    targets: Tensor
    weights: Tensor
    spared: bool

    @classmethod
    def of(cls, model: Model, texts: Sequence[Text]) -> Batch:
        ids, _ = model.padded([text.ids for text in texts], left=False)
        columns = sorted({position - 1 for text in texts for position in text.scored}) or [0]
        place = {column: index for index, column in enumerate(columns)}
        weights = torch.zeros((len(texts), len(columns)))
        for row, text in enumerate(texts):
            weights[row, [place[position - 1] for position in text.scored]] = 1
        which = torch.tensor(columns, device=ids.device)
        targets = ids[:, (which + 1).clamp(max=ids.shape[1] - 1)]
        # Found out here, where no hooks stand in the way of a trial.
        spared = can_be_spared(model)
        return cls(model, texts, ids, which, targets, weights.to(ids.device), spared)

    def clock(self, values: dict[Gate, list[float]]) -> TokenClock:
        """A clock for one way of steering: it has a row for each text. values: as its own."""
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
        """The trunk of every layer; `base` is made on the way."""
        with growing(self.model) as trunks:
            # What is spared in the last block would be missing there.
            vars(self)["base"] = replace(self, spared=False).base
        return trunks

    @cached_property
    def conditioned(self) -> Tensor:
        """The same after the condition."""
        ids, _ = self.model.padded([text.conditioned for text in self.texts], left=False)
        shifts = [len(text.conditioned) - len(text.ids) for text in self.texts]
        columns = torch.tensor(shifts)[:, None] + self.columns.cpu()[None]
        # What a text does not score is as good as anything.
        columns = columns.clamp(0, ids.shape[1] - 1)
        kept, index = torch.unique(columns, return_inverse=True)
        found = self.log_probs(ids, kept.to(ids.device))
        return found[torch.arange(len(ids))[:, None], index.to(found.device)]

    def log_probs(self, ids: Tensor, columns: Tensor) -> Tensor:
        """log p float32 [row, column, vocabulary] at the columns; the LM head runs there only.

        ids: int64 [row, position], padded on the right: no token sees what comes after it, so
        nothing has to be masked, and attention without a mask is faster.
        """
        asked = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
        with sparing(self.model, columns) if self.spared else nullcontext():
            if picks_columns(self.model):
                logits = self.model.network(**asked, logits_to_keep=columns).logits
            else:
                logits = self.model.network(**asked).logits
                logits = logits[:, columns.to(logits.device)]
        return torch.as_tensor(logits).float().log_softmax(-1)

    @property
    def n_logits(self) -> int:
        """Numbers in the log-probabilities of one cell."""
        return self.targets.numel() * vocabulary(self.model)

    def forget(self) -> None:
        """Let go of log-probabilities that are remembered."""
        for name in ("base", "conditioned"):
            self.__dict__.pop(name, None)


#: Log-probabilities [cell, text, column, vocabulary] of cells of a batch, to a number for each
#: [cell, text, column].
TokenMeasure = Callable[[Tensor, Batch], Tensor]


def log_prob(cells: Tensor, batch: Batch) -> Tensor:
    """log p of the token that comes, in nats."""
    targets = batch.targets.to(cells.device).expand(cells.shape[:-1])
    return cells.gather(-1, targets[..., None]).squeeze(-1)


def drift(cells: Tensor, batch: Batch) -> Tensor:
    """KL(p_base || p_steered), in nats."""
    return token_kl(batch.base, cells)


def distance(cells: Tensor, batch: Batch) -> Tensor:
    """KL(p_condition || p_steered), in nats."""
    return token_kl(batch.conditioned, cells)


def surprise(cells: Tensor, batch: Batch) -> Tensor:
    """What the next token is expected to cost the unsteered model, in nats: the cross-entropy
    -sum_v p_steered(v) log p_base(v). It takes all that could have been written, not only what was.
    """
    chances = cells.exp()
    # A token that is not written costs nothing, also where the unsteered model excludes it.
    return -(chances * batch.base[None]).masked_fill(chances == 0, 0.0).sum(-1)
