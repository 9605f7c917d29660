"""Measure the effect of a vector with the model's own probabilities, without a judge.

At each token of some answers, the conditions of the two poles give the next token the probabilities
p+ and p-, the plain model p, and the steered model q. In the direction from one pole to the other,

    gap   = sum_v (p+(v) - p-(v)) (log p+(v) - log p-(v))
    moved = sum_v (q(v) - p(v)) (log p+(v) - log p-(v))

The effect is moved / gap, both summed over all tokens: 1 if steering changes predictions as much
as the whole way from one pole to the other. All four are compared after the same tokens, so sampled
texts add no noise to the comparison. The gap per token is the symmetric divergence of the poles:
how far the model heeds them. The vector itself does not enter into it.

The cost is how much less likely the unsteered model finds steered answers than its own, in nats
per token. At each token of an answer it is -sum_v p_writer(v) log p(v), whose expectation is that
of the sampled token, without its noise (Rao-Blackwell).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steer.base.intervals import Interval, difference, ratio
from steer.concepts.answers import Answer, Query
from steer.concepts.likelihood import packed, within_memory
from steer.hooks.clock import TokenClock
from steer.hooks.inject import injected
from steer.models.model import Model
from steer.steering.steers import Steer

Numbers = NDArray[np.float64]
#: The condition ("" for none) or the steers that a text was generated under.
Writer = str | tuple[Steer, ...]


@dataclass(frozen=True, slots=True)
class EffectSums:
    """Sums over the tokens of each answer, each float64 [answer].

    gap: between the predictions under the two poles, in nats. moved: how far steering moves
    predictions along that gap, in nats. n: the number of tokens.
    """

    gap: Numbers
    moved: Numbers
    n: Numbers

    @property
    def effect(self) -> Interval:
        """How far steering moves predictions: 1 is all the way from one pole to the other."""
        return ratio(self.moved, self.gap)

    @property
    def pole_divergence(self) -> Interval:
        """The symmetric divergence of the predictions under the two poles, in nats per token."""
        return ratio(self.gap, self.n)


@dataclass(frozen=True, slots=True)
class Costs:
    """Nats of answers under the unsteered model and their number of tokens; each float64
    [answer]."""

    nats: Numbers
    n: Numbers

    def __getitem__(self, part: slice) -> Costs:
        return Costs(self.nats[part], self.n[part])

    def above(self, own: Costs) -> Interval:
        """Extra nats per token compared with the model's own answers to the same questions."""
        return difference((self.nats, self.n), (own.nats, own.n))

    @property
    def per_token(self) -> float:
        """The mean nats per token."""
        return float(self.nats.sum() / max(self.n.sum(), 1.0))


@torch.no_grad()
def effect_sums(
    model: Model,
    answers: Sequence[Answer],
    conditions: tuple[str, str],
    steers: tuple[Steer, ...],
) -> EffectSums:
    """Compare predictions at every token of answers, under any writers.

    conditions: of the positive and of the negative pole; "" for the plain model. Steers act on all
    tokens.
    """
    gap, moved = np.zeros(len(answers)), np.zeros(len(answers))
    for part in _batches(model, answers):
        texts = [answers[index] for index in part]
        sizes = [len(text.ids) for text in texts]
        plus, plain = (_log_probs(model, texts, writer) for writer in (conditions[0], ""))
        minus = _log_probs(model, texts, conditions[1]) if conditions[1] else plain
        along = plus - minus
        gap[part] = _sums((plus.exp_() - minus.exp()).mul_(along), sizes)
        del plus, minus
        steered = _log_probs(model, texts, steers)
        moved[part] = _sums((steered.exp_() - plain.exp()).mul_(along), sizes)
    return EffectSums(gap, moved, _lengths(answers))


@torch.no_grad()
def costs(model: Model, answers: Sequence[Answer], writers: Sequence[Writer]) -> Costs:
    """Nats of answers under the unsteered model. writers: of each answer."""
    nats = np.zeros(len(answers))
    for part in _batches(model, answers):
        texts = [answers[index] for index in part]
        plain = _log_probs(model, texts, "")
        own = _own(model, texts, [writers[index] for index in part], plain)
        nats[part] = _sums(own.exp().mul_(plain).neg_(), [len(text.ids) for text in texts])
    return Costs(nats, _lengths(answers))


def _sums(values: Tensor, sizes: Sequence[int]) -> list[float]:
    """The sum over the tokens of each answer. values: [token, vocabulary]."""
    totals = values.sum(-1).double().cpu()
    return [float(piece.sum()) for piece in torch.split(totals, list(sizes))]


def _lengths(answers: Sequence[Answer]) -> Numbers:
    return np.array([len(answer.ids) for answer in answers], np.float64)


def _batches(model: Model, answers: Sequence[Answer]) -> Iterator[list[int]]:
    """Batches within the memory limit; answers to the same question, whose prompts run once, stay
    together."""
    first: dict[str, int] = {}
    for index, answer in enumerate(answers):
        first.setdefault(answer.query.question, index)
    order = sorted(range(len(answers)), key=lambda index: first[answers[index].query.question])
    for part in within_memory(model, [len(answers[index].ids) for index in order]):
        yield [order[place] for place in part]


def _own(model: Model, texts: Sequence[Answer], writers: Sequence[Writer], plain: Tensor) -> Tensor:
    """Each text's log-probabilities under its own writer, [token, vocabulary]. plain: those of the
    plain model."""
    sizes = [len(text.ids) for text in texts]
    pieces = list(torch.split(plain, sizes))
    for key in dict.fromkeys(map(_same, writers)):
        members = [index for index, writer in enumerate(writers) if _same(writer) == key]
        writer = writers[members[0]]
        if writer:
            own = _log_probs(model, [texts[index] for index in members], writer)
            split = torch.split(own, [sizes[index] for index in members])
            for index, piece in zip(members, split, strict=True):
                pieces[index] = piece
    return torch.cat(pieces)


def _same(writer: Writer) -> object:
    return writer if isinstance(writer, str) else id(writer)


def _log_probs(model: Model, texts: Sequence[Answer], writer: Writer) -> Tensor:
    """Log-probabilities at every position of the texts, [token, vocabulary], under a condition, or
    under steers without a condition."""
    condition = writer if isinstance(writer, str) else ""
    rows = []
    for text in texts:
        query = Query(condition, text.query.question, text.query.chat)
        rows.append(((*query.ids(model), *text.ids), len(text.ids)))
    if isinstance(writer, str) or not writer:
        return packed(model, rows)
    # Steers that act on all tokens act on shared ones too.
    clock = TokenClock(0, torch.zeros(1, dtype=torch.int64))
    with injected(model, writer, clock):
        return packed(model, rows)
