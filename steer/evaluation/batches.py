"""Batches of texts as token ids, and the quantities measured at each token. Generates no text.

Tokens that texts of a batch share at their beginning run once (`steer.hooks.packing`): in a chat
the system message, and the question before both answers. The LM head runs only where a token is
scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steer.contrasts.reading import Reading
from steer.distillation.lessons import picks_columns, vocabulary
from steer.distillation.recovery import token_kl
from steer.hooks.clock import TokenClock
from steer.hooks.folding import Folding
from steer.hooks.head import apply_head, has_head
from steer.hooks.hooks import SiteFunction, placed
from steer.hooks.packing import PackedRow
from steer.hooks.record import Inputs, in_rows, inputs
from steer.hooks.trunk import Trunk, can_restrict_last_mlp, last_mlp_at, recorded_trunks
from steer.models.model import Model
from steer.steering.projection import Gate
from steer.vectors.sites import Site


@dataclass(frozen=True, slots=True)
class Text:
    """Token ids and the positions of the tokens to score.

    scored: rising positions, from 1. start: where the response begins, for scopes and gates.
    conditioned: ids of the same text after a condition, if there is one; they end with the same
    tokens.
    """

    ids: tuple[int, ...]
    scored: tuple[int, ...]
    start: int = 0
    conditioned: tuple[int, ...] = ()


def packed(
    model: Model, texts: Sequence[Text], limit: int, *, by_prompt: bool = False
) -> list[PackedRow]:
    """Texts in rows of at most `limit` tokens, in which tokens that they share run once.

    Texts share no token that a scope or a schedule treats differently: either their responses begin
    at the same position, or they share tokens of the prompt only, without its last one. by_prompt:
    only texts with the same prompt share anything, as gates that read whole prompts require.
    """

    def may_share(first: int, second: int, shared: int) -> int:
        starts = texts[first].start, texts[second].start
        if starts[0] == starts[1] and (not by_prompt or shared >= starts[0]):
            return shared
        return 0 if by_prompt else min(shared, *(max(0, start - 1) for start in starts))

    return in_rows(model, _readings([text.ids for text in texts]), limit, may_share)


def _readings(rows: Sequence[Sequence[int]]) -> list[Reading]:
    return [Reading(ids, ((0, len(ids)),)) for ids in rows]


@dataclass(frozen=True, eq=False)
class Forward:
    """A forward of some texts, and the positions whose next token is scored.

    rows, columns: int64 [token], text after text. restricted: whether the last MLP runs at these
    positions only.
    """

    model: Model
    inputs: Inputs
    rows: Tensor
    columns: Tensor
    restricted: bool

    @classmethod
    def of(
        cls,
        model: Model,
        texts: Sequence[Sequence[int]],
        scored: Sequence[Sequence[int]],
        packed: Sequence[PackedRow],
    ) -> Forward:
        """scored: for each text, the positions of the tokens to score. packed: the rows."""
        laid_out = inputs(model, _readings(texts), packed)
        order = [index for row in packed for index in row.readings]
        in_order = sorted(zip(order, laid_out.paths, strict=True), key=lambda pair: pair[0])
        laid_out = laid_out._replace(paths=[path for _, path in in_order])
        if laid_out.positions is None:
            # Attention is causal, so padding on the right needs no mask, and attention without one
            # is faster.
            laid_out = laid_out._replace(mask=torch.ones_like(laid_out.mask))
        before = [np.asarray(positions, np.int64) - 1 for positions in scored]
        rows = [np.full(len(at), row) for at, (row, _) in zip(before, laid_out.paths, strict=True)]
        columns = [path[at] for at, (_, path) in zip(before, laid_out.paths, strict=True)]
        # Tested here, before any hooks are set.
        has_head(model)
        return cls(
            model,
            laid_out,
            torch.from_numpy(np.concatenate(rows)),
            torch.from_numpy(np.concatenate(columns)),
            restricted=can_restrict_last_mlp(model),
        )

    def arguments(self, times: int = 1) -> dict[str, Any]:
        """The arguments of the body's forward, with all rows `times` times."""
        ids, mask, positions, _ = self.inputs
        several = {"input_ids": ids, "attention_mask": mask}
        if positions is not None:
            several["position_ids"] = positions
        repeated = {
            name: value.repeat(times, *[1] * (value.ndim - 1)) for name, value in several.items()
        }
        return {**repeated, "use_cache": False}

    @torch.no_grad()
    def states(
        self, times: int = 1, functions: Mapping[Site, SiteFunction] | None = None
    ) -> Tensor:
        """The input of the LM head at the scored tokens, [time, token, ...]: the body's last hidden
        states, or the logits of a network whose head does not run by itself.

        functions: called with the activations of their sites, with all rows `times` times.

        Raises:
            HookError: a site was never reached.
        """
        model, (n_rows, width) = self.model, self.inputs.ids.shape
        at = self.rows * width + self.columns
        every = (torch.arange(times)[:, None] * n_rows * width + at).flatten()
        columns, kept = self.columns, {}
        # Set before the site functions, which see all positions.
        restricted = last_mlp_at(model, every) if self.restricted else nullcontext()
        with restricted, placed(model, dict(functions or {})):
            if has_head(model):
                states = model.body(**self.arguments(times))[0]
            else:
                if picks_columns(model):
                    which, columns = torch.unique(self.columns, return_inverse=True)
                    kept = {"logits_to_keep": which.to(model.device)}
                states = model.network(**self.arguments(times), **kept).logits
        rows, columns = (index.to(states.device) for index in (self.rows, columns))
        states = torch.as_tensor(states)
        return states.view(times, n_rows, *states.shape[1:])[:, rows, columns]

    def log_probs(self, states: Tensor) -> Tensor:
        """log p of the next token, float32 [..., vocabulary], from states [..., :]."""
        logits = states
        if has_head(self.model):
            logits = apply_head(self.model, states.flatten(0, -2)).view(*states.shape[:-1], -1)
        return logits.float().log_softmax(-1)


@dataclass
class MemoryBudget:
    """Memory for results that are cached between calls. left: bytes."""

    left: int

    def take(self, size: int) -> bool:
        """Reserve `size` bytes; returns whether there was room."""
        fits = size <= self.left
        self.left -= size if fits else 0
        return fits


@dataclass(frozen=True, eq=False)
class TextBatch:
    """Texts that run together.

    plain: the texts themselves. targets: int64 [token], all tokens that are scored, text after
    text. owners: int64 [token], the text of each. room: for log-probabilities that are kept.
    """

    model: Model
    texts: Sequence[Text]
    plain: Forward
    targets: Tensor
    owners: NDArray[np.int64]
    room: MemoryBudget
    #: Log-probabilities of all scored tokens, [token, vocabulary].
    _kept: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, model: Model, texts: Sequence[Text], room: MemoryBudget, *, by_prompt: bool = False
    ) -> TextBatch:
        """by_prompt: as of `packed`."""
        limit = sum(len(text.ids) for text in texts)
        rows = packed(model, texts, limit, by_prompt=by_prompt)
        scored = [text.scored for text in texts]
        plain = Forward.of(model, [text.ids for text in texts], scored, rows)
        targets = [text.ids[position] for text in texts for position in text.scored]
        owners = np.repeat(np.arange(len(texts)), [len(positions) for positions in scored])
        return cls(model, texts, plain, torch.tensor(targets, dtype=torch.int64), owners, room)

    def __len__(self) -> int:
        """The number of tokens that are scored."""
        return len(self.owners)

    @property
    def n_tokens(self) -> int:
        """Tokens of a forward, with padding."""
        return self.plain.inputs.ids.numel()

    def clock(self, values: dict[Gate, list[float]]) -> TokenClock:
        """A clock for one cell, with a row for each text. values: those of prompt gates."""
        nothing = torch.zeros(len(self.texts), dtype=torch.int64)
        laid_out = self.plain.inputs
        shape = laid_out.ids.shape[0], laid_out.ids.shape[1]
        folding = None if laid_out.positions is None else Folding.of(laid_out.paths, shape)
        starts = [text.start for text in self.texts]
        clock = TokenClock(0, nothing, values, starts, folding)
        clock.ids = laid_out.ids
        longest = max(len(text.ids) for text in self.texts)
        clock.counted = torch.zeros((len(self.texts), longest), dtype=torch.bool)
        for row, text in enumerate(self.texts):
            clock.counted[row, [position - 1 for position in text.scored]] = True
        return clock

    @cached_property
    def conditioned(self) -> Forward:
        """The texts after the condition."""
        ids = [text.conditioned for text in self.texts]
        shifts = [len(text.conditioned) - len(text.ids) for text in self.texts]
        scored = [
            [position + shift for position in text.scored]
            for text, shift in zip(self.texts, shifts, strict=True)
        ]
        rows = in_rows(self.model, _readings(ids), sum(map(len, ids)))
        return Forward.of(self.model, ids, scored, rows)

    @cached_property
    def base_states(self) -> Tensor:
        """States of the unsteered model, [token, ...] (`Forward.states`)."""
        return self.plain.states()[0]

    @cached_property
    def conditioned_states(self) -> Tensor:
        """The same after the condition."""
        return self.conditioned.states()[0]

    def grow(self) -> dict[int, Trunk]:
        """The trunk of every layer; computes `base_states` in the same forward."""
        with recorded_trunks(self.model) as trunks:
            # A last MLP that skips positions would leave its trunk incomplete.
            vars(self)["base_states"] = replace(self.plain, restricted=False).states()[0]
        return trunks

    def parts(self, n_tokens: int) -> Iterator[Part]:
        """The scored tokens, `n_tokens` at a time."""
        for start in range(0, len(self), n_tokens):
            yield Part(self, slice(start, start + n_tokens))

    def known(self, name: Literal["base", "conditioned"], where: slice) -> Tensor:
        """Log-probabilities at some of the scored tokens, float32 [token, vocabulary], of the
        unsteered model without or with the condition; cached if there is room."""
        states = self.base_states if name == "base" else self.conditioned_states
        if name not in self._kept and self.room.take(4 * len(self) * vocabulary(self.model)):
            self._kept[name] = self.plain.log_probs(states)
        kept = self._kept.get(name)
        return self.plain.log_probs(states[where]) if kept is None else kept[where]


@dataclass(frozen=True, eq=False)
class Part:
    """Some of the scored tokens of a batch, with the distributions that measures compare with."""

    batch: TextBatch
    where: slice

    @property
    def targets(self) -> Tensor:
        """The tokens themselves, int64 [token]."""
        return self.batch.targets[self.where]

    @cached_property
    def base(self) -> Tensor:
        """Log-probabilities of the unsteered model, float32 [token, vocabulary]."""
        return self.batch.known("base", self.where)

    @cached_property
    def conditioned(self) -> Tensor:
        """The same after the condition."""
        return self.batch.known("conditioned", self.where)


#: Computes a number for each [cell, token] from log-probabilities [cell, token, vocabulary] under
#: some cells and the part of the batch that they belong to.
TokenMeasure = Callable[[Tensor, Part], Tensor]


def log_prob(cells: Tensor, part: Part) -> Tensor:
    """log p of the next token, in nats."""
    targets = part.targets.to(cells.device).expand(cells.shape[:-1])
    return cells.gather(-1, targets[..., None]).squeeze(-1)


def drift(cells: Tensor, part: Part) -> Tensor:
    """KL(p_base || p_steered), in nats."""
    return token_kl(part.base, cells)


def distance(cells: Tensor, part: Part) -> Tensor:
    """KL(p_condition || p_steered), in nats."""
    return token_kl(part.conditioned, cells)


def surprise(cells: Tensor, part: Part) -> Tensor:
    """The expected surprise of the next token under the unsteered model, in nats: the cross-entropy
    -sum_v p_steered(v) log p_base(v). It averages over all tokens, not only the sampled one.
    """
    probabilities = cells.exp()
    # A token of probability 0 contributes 0, even if the unsteered model excludes it.
    products = probabilities * part.base[None]
    return -products.masked_fill(probabilities == 0, 0.0).sum(-1)
