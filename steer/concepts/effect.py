"""Measure the effect of a vector on answers with the model's own probabilities, without a judge.

The score s says how much a text sounds like one pole rather than the other. At each token it is

    s = sum_v p_writer(v) (log p(v | positive condition) - log p(v | negative condition))

The writer is the model that generated the text: unsteered, under a condition, or steered. The sum
over the vocabulary has the same expectation as the term of the sampled token, without its noise
(Rao-Blackwell). The effect of steering is the change of s, as a share of the way from answers under
the negative condition to those under the positive one. The vector itself does not enter into s. The
cost is how much less likely the unsteered model finds the steered answers than its own, in nats per
token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steer.base.intervals import Interval, difference, estimate
from steer.concepts.answers import Answer, Query
from steer.contrasts.reading import Reading
from steer.distillation.lessons import log_probs, vocabulary
from steer.hooks.clock import TokenClock
from steer.hooks.head import Ending, has_head, headed
from steer.hooks.inject import injected
from steer.hooks.record import in_batches, inputs, readings_of
from steer.models.model import Model
from steer.steering.steers import Steer

Numbers = NDArray[np.float64]
#: The condition ("" for none) or the steers that a text was generated under.
Writer = str | tuple[Steer, ...]

#: Bytes of log-probabilities of one batch under one condition.
_BYTES = 64_000_000


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of answers: s summed over tokens, nats under the unsteered model, and number of
    tokens; each float64 [answer]."""

    s: Numbers
    nats: Numbers
    n: Numbers

    def __getitem__(self, part: slice) -> Scores:
        return Scores(self.s[part], self.nats[part], self.n[part])

    @property
    def per_token(self) -> float:
        """The mean s per token."""
        return float(self.s.sum() / max(self.n.sum(), 1.0))

    @property
    def nats_per_token(self) -> float:
        """The mean nats per token under the unsteered model."""
        return float(self.nats.sum() / max(self.n.sum(), 1.0))


@torch.no_grad()
def scores(
    model: Model,
    answers: Sequence[Answer],
    writers: Sequence[Writer],
    conditions: tuple[str, str],
) -> Scores:
    """Score answers by their writers.

    conditions: of the positive and of the negative pole; "" for the plain model. Steers act on all
    tokens.
    """
    s, nats = np.zeros(len(answers)), np.zeros(len(answers))
    n = np.array([len(answer.ids) for answer in answers], np.float64)
    for part in _batches(model, answers):
        texts = [answers[index] for index in part]
        sizes = [len(text.ids) for text in texts]
        known = {
            condition: _log_probs(model, texts, condition)
            for condition in dict.fromkeys((*conditions, ""))
        }
        own = _own(model, texts, [writers[index] for index in part], known)
        chance = own.exp()
        gap = (chance * (known[conditions[0]] - known[conditions[1]])).sum(-1)
        paid = -(chance * known[""]).sum(-1)
        s[part] = [float(piece.sum()) for piece in torch.split(gap.double().cpu(), sizes)]
        nats[part] = [float(piece.sum()) for piece in torch.split(paid.double().cpu(), sizes)]
    return Scores(s, nats, n)


def _batches(model: Model, answers: Sequence[Answer]) -> Iterator[list[int]]:
    """Batches within the memory limit; answers to the same question, whose prompts run once, stay
    together."""
    most = max(1, _BYTES // (4 * vocabulary(model)))
    first: dict[str, int] = {}
    for index, answer in enumerate(answers):
        first.setdefault(answer.query.question, index)
    order = sorted(range(len(answers)), key=lambda index: first[answers[index].query.question])
    part: list[int] = []
    tokens = 0
    for index in order:
        if not answers[index].ids:
            continue
        tokens += len(answers[index].ids)
        if part and tokens > most:
            yield part
            part, tokens = [], len(answers[index].ids)
        part.append(index)
    if part:
        yield part


def _own(
    model: Model,
    texts: Sequence[Answer],
    writers: Sequence[Writer],
    known: Mapping[str, Tensor],
) -> Tensor:
    """Each text's log-probabilities under its own writer, [token, vocabulary]."""
    sizes = [len(text.ids) for text in texts]
    pieces: dict[int, Tensor] = {}
    for key in dict.fromkeys(map(_same, writers)):
        members = [i for i, writer in enumerate(writers) if _same(writer) == key]
        writer = writers[members[0]]
        if isinstance(writer, str) and writer in known:
            split = torch.split(known[writer], sizes)
            pieces |= {i: split[i] for i in members}
        else:
            own = _log_probs(model, [texts[i] for i in members], writer)
            split = torch.split(own, [sizes[i] for i in members])
            pieces |= dict(zip(members, split, strict=True))
    return torch.cat([pieces[i] for i in range(len(texts))])


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
        return _packed(model, rows)
    # Steers that act on all tokens act on shared ones too.
    clock = TokenClock(0, torch.zeros(1, dtype=torch.int64))
    with injected(model, writer, clock):
        return _packed(model, rows)


def _packed(model: Model, rows: Sequence[Ending]) -> Tensor:
    """`log_probs`, with the beginnings that rows have in common run once."""
    if not has_head(model):
        return log_probs(model, rows)
    readings = [Reading(ids, ((0, 1),)) for ids, _ in rows]
    hidden: dict[int, Tensor] = {}
    for batch in in_batches(model, readings):
        arguments = inputs(model, readings, batch)
        where = {} if arguments.positions is None else {"position_ids": arguments.positions}
        stream = model.body(
            input_ids=arguments.ids, attention_mask=arguments.mask, use_cache=False, **where
        )[0]
        for index, (row, path) in zip(readings_of(batch), arguments.paths, strict=True):
            ids, n = rows[index]
            columns = torch.from_numpy(path[len(ids) - n - 1 : len(ids) - 1])
            hidden[index] = stream[row, columns.to(stream.device)]
    return headed(model, torch.cat([hidden[i] for i in range(len(rows))])).log_softmax(-1)


def heeded(positive: Scores, other: Scores) -> Interval:
    """How different the answers under two conditions are, in nats per token."""
    return difference((positive.s, positive.n), (other.s, other.n))


def effect(steered: Scores, unsteered: Scores, positive: Scores, negative: Scores) -> Interval:
    """How far steering moves answers: 1 is all the way from one pole to the other."""

    def moved(*sums: Numbers) -> Numbers:
        a, an, b, bn, p, pn, m, mn = sums
        return np.asarray((a / an - b / bn) / (p / pn - m / mn))

    parts = [part for sums in (steered, unsteered, positive, negative) for part in (sums.s, sums.n)]
    return estimate(moved, *parts)


def cost(steered: Scores, unsteered: Scores) -> Interval:
    """Extra nats per token of steered answers under the unsteered model."""
    return difference((steered.nats, steered.n), (unsteered.nats, unsteered.n))
