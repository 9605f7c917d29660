"""What a vector does to answers, told by the model itself: no judge, no classifier.

How much a text sounds like one pole rather than the other is what the model says of it, at each of
its tokens, in expectation over what its writer could have written there:

    s = sum_v p_writer(v) (log p(v | positive condition) - log p(v | negative condition))

The writer is the unsteered model, the model under a condition, or the steered one; the text is its
own. The mean over all that could have been written has the same expectation as that of the token
that was drawn, without its noise (Rao-Blackwell). The effect of steering is how far s moves, as a
share of the way from answers under the negative condition to those under the positive one. The
direction does not enter into s, so it cannot vouch for itself. The cost is how much less likely the
unsteered model finds the steered answers than its own, in nats a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steer.base.intervals import Interval, difference, estimate
from steer.concepts.answers import Answer, Asked
from steer.distillation.lessons import log_probs, vocabulary
from steer.hooks.clock import TokenClock
from steer.hooks.inject import injected
from steer.models.model import Model
from steer.steering.steers import Steer

Numbers = NDArray[np.float64]
#: Under what a text was written: a condition ("" is none), or steers.
Writer = str | tuple[Steer, ...]

#: Bytes of log-probabilities of one batch under one condition.
_BYTES = 64_000_000


@dataclass(frozen=True, slots=True)
class Scores:
    """Of answers to the same questions, one each: s summed over tokens, nats that the unsteered
    model pays, and tokens; each float64 [answer]."""

    s: Numbers
    nats: Numbers
    n: Numbers

    def __getitem__(self, part: slice) -> Scores:
        return Scores(self.s[part], self.nats[part], self.n[part])

    @property
    def per_token(self) -> float:
        """Mean s of a token."""
        return float(self.s.sum() / max(self.n.sum(), 1.0))

    @property
    def nats_per_token(self) -> float:
        """Mean nats that a token costs the unsteered model."""
        return float(self.nats.sum() / max(self.n.sum(), 1.0))


@torch.no_grad()
def scores(
    model: Model,
    answers: Sequence[Answer],
    writers: Sequence[Writer],
    conditions: tuple[str, str],
) -> Scores:
    """Score answers, each written under its writer.

    conditions: of the positive and of the negative pole; "" is the model as it is. Steers act on
    all tokens.
    """
    s, nats = np.zeros(len(answers)), np.zeros(len(answers))
    n = np.array([len(answer.ids) for answer in answers], np.float64)
    for writer, part in _batches(model, answers, writers):
        texts = [answers[index] for index in part]
        known = {one: _log_probs(model, texts, one) for one in dict.fromkeys((*conditions, ""))}
        own = known.get(writer) if isinstance(writer, str) else None
        if own is None:
            own = _log_probs(model, texts, writer)
        chance = own.exp()
        sizes = [len(text.ids) for text in texts]
        told = (chance * (known[conditions[0]] - known[conditions[1]])).sum(-1)
        paid = -(chance * known[""]).sum(-1)
        s[part] = [float(piece.sum()) for piece in torch.split(told.double().cpu(), sizes)]
        nats[part] = [float(piece.sum()) for piece in torch.split(paid.double().cpu(), sizes)]
    return Scores(s, nats, n)


def _batches(
    model: Model, answers: Sequence[Answer], writers: Sequence[Writer]
) -> Iterator[tuple[Writer, list[int]]]:
    """Neighbours with the same writer, at most as many as there is room for."""
    most = max(1, _BYTES // (4 * vocabulary(model)))
    for _, group in groupby(range(len(answers)), key=lambda index: _same(writers[index])):
        part: list[int] = []
        tokens = 0
        for index in group:
            if not answers[index].ids:
                continue
            tokens += len(answers[index].ids)
            if part and tokens > most:
                yield writers[part[0]], part
                part, tokens = [], len(answers[index].ids)
            part.append(index)
        if part:
            yield writers[part[0]], part


def _same(writer: Writer) -> object:
    return writer if isinstance(writer, str) else id(writer)


def _log_probs(model: Model, texts: Sequence[Answer], writer: Writer) -> Tensor:
    """log p of every token at every place of the texts, [token, vocabulary], under a condition or
    under steers without one."""
    condition = writer if isinstance(writer, str) else ""
    rows = []
    for text in texts:
        asked = Asked(condition, text.asked.question, text.asked.chat)
        rows.append(((*asked.ids(model), *text.ids), len(text.ids)))
    if isinstance(writer, str):
        return log_probs(model, rows)
    clock = TokenClock(0, torch.zeros(len(rows), dtype=torch.int64))
    with injected(model, writer, clock) if writer else nullcontext():
        return log_probs(model, rows)


def heeded(positive: Scores, other: Scores) -> Interval:
    """How far apart the answers under two conditions are, in nats a token."""
    return difference((positive.s, positive.n), (other.s, other.n))


def effect(steered: Scores, unsteered: Scores, positive: Scores, negative: Scores) -> Interval:
    """How far steering moves answers: 1 is all the way from one pole to the other."""

    def moved(*sums: Numbers) -> Numbers:
        a, an, b, bn, p, pn, m, mn = sums
        return np.asarray((a / an - b / bn) / (p / pn - m / mn))

    parts = [part for one in (steered, unsteered, positive, negative) for part in (one.s, one.n)]
    return estimate(moved, *parts)


def cost(steered: Scores, unsteered: Scores) -> Interval:
    """Extra nats a token that steered answers cost the unsteered model."""
    return difference((steered.nats, steered.n), (unsteered.nats, unsteered.n))
